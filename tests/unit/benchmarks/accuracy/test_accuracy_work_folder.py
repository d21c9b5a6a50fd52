"""What a run keeps beside its records: for one run at a time, and what is left of it."""

from __future__ import annotations

import threading
import time

import pytest

from dinspect_bench.accuracy.work_folder import MAPS_FOLDER, empty_folder, work_folder
from dinspect_export.errors import StorageError


def test_only_one_run_is_at_work_however_many_wait(tmp_path):
    """Each leaves the folder removed, while others wait and others begin."""
    inside, seen = [], []

    def run():
        for _ in range(5):
            with work_folder(tmp_path / "parts.jsonl") as work:
                inside.append(work)
                work.path.mkdir()
                time.sleep(0.002)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20


def test_owner_is_the_same_for_the_same_records(tmp_path):
    owners = []
    for name in ("parts.jsonl", "parts.jsonl", "other.jsonl"):
        with work_folder(tmp_path / name) as work:
            owners.append(work.owner)
    assert owners[0] == owners[1] != owners[2]
    (tmp_path / "plant").mkdir()
    (tmp_path / ".parts_run").rename(tmp_path / "plant/.parts_run")  # as another mount of a volume
    with work_folder(tmp_path / "plant/parts.jsonl") as work:
        assert work.owner == owners[0]


def test_folder_is_gone_unless_a_training_is_in_it(tmp_path):
    with work_folder(tmp_path / "parts.jsonl") as work:
        work.path.mkdir()
    assert not work.path.exists()
    with work_folder(tmp_path / "parts.jsonl"):
        (work.path / "training").mkdir(parents=True)
    assert (work.path / "training").is_dir()


def test_maps_of_a_killed_run_are_removed(tmp_path):
    maps = tmp_path / "parts_work" / MAPS_FOLDER
    maps.mkdir(parents=True)
    (maps / "00000.npy").write_bytes(b"map")
    with work_folder(tmp_path / "parts.jsonl"):
        assert not maps.exists()
    assert not maps.parent.exists()


def test_folder_of_maps_is_empty_and_gone_afterwards(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/old.npy").write_bytes(b"map")
    with empty_folder(tmp_path / "maps") as folder:
        assert list(folder.iterdir()) == []
        (folder / "new.npy").write_bytes(b"map")
    assert not folder.exists()


def test_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):  # noqa: SIM117
        with work_folder(tmp_path / "file/parts.jsonl"):
            pass
