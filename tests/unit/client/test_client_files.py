from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinspect_client.files import whole_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_file_has_its_name_only_when_it_is_whole(tmp_path, overwrite, durable) -> None:
    path = tmp_path / "a.zip"
    with whole_file(path, overwrite=overwrite, durable=durable) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")

    assert path.read_bytes() == b"half and half"
    assert names(tmp_path) == ["a.zip"]


def test_existing_file_is_replaced_only_if_that_is_allowed(tmp_path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"old")

    with pytest.raises(FileExistsError), whole_file(path, overwrite=False):
        raise AssertionError("nothing may be done before the refusal")
    assert path.read_bytes() == b"old"
    with whole_file(path, overwrite=True) as file:
        file.write(b"new")

    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.zip"]


def test_dangling_link_is_in_the_way_too(tmp_path) -> None:
    (tmp_path / "a.zip").symlink_to(tmp_path / "nowhere")

    with pytest.raises(FileExistsError), whole_file(tmp_path / "a.zip", overwrite=False):
        raise AssertionError("nothing may be done before the refusal")

    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("has_links", [True, False])
def test_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, has_links) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    path = tmp_path / "a.zip"

    def write_too_late() -> None:
        with whole_file(path, overwrite=False) as file:
            file.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        write_too_late()

    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.zip"]


def test_file_system_without_links_gets_the_file_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))

    with whole_file(tmp_path / "a.zip", overwrite=False) as file:
        file.write(b"x")

    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_whatever_goes_wrong_leaves_what_was_there(tmp_path, error) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"old")

    def write_half() -> None:
        with whole_file(path, overwrite=True) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()

    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.zip"]


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch) -> None:
    events = []
    real_fsync, real_link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "link", lambda *a: (events.append("link"), real_link(*a)))

    with whole_file(tmp_path / "a.zip", overwrite=False, durable=True) as file:
        file.write(b"x")

    assert events == ["fsync", "link", "fsync"]  # the file, its name, the folder


def test_longest_name_of_the_file_system_is_possible(tmp_path) -> None:
    path = tmp_path / ("x" * 255)

    with whole_file(path, overwrite=False) as file:
        file.write(b"x")

    assert path.read_bytes() == b"x"
