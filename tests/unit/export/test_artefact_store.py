"""Artefacts appear whole or not at all, and an earlier one survives whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from dinspect_export.artefact_store import exclusive, replace_file, staged_folder, writing
from dinspect_export.errors import StorageError


@pytest.fixture
def artefact(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "model").write_text("old")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_takes_the_place_of_old(artefact):
    with staged_folder(artefact) as folder:
        (folder / "model").write_text("new")
        assert (artefact / "model").read_text() == "old"
    assert (artefact / "model").read_text() == "new"
    assert (artefact / "model").stat().st_mode & 0o777 == 0o644
    assert names(artefact.parent) == ["artefact"]


def test_failure_leaves_the_old(artefact):
    with contextlib.suppress(ZeroDivisionError), staged_folder(artefact) as folder:
        (folder / "model").write_text(f"{1 / 0}")
    assert (artefact / "model").read_text() == "old"
    assert names(artefact.parent) == ["artefact"]


def test_old_comes_back_if_the_new_cannot_take_its_place(artefact, monkeypatch):
    rename = Path.rename

    def refuse(self, target):
        if self.suffix == ".partial":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="quota"), staged_folder(artefact) as folder:
        (folder / "model").write_text("new")
    assert (artefact / "model").read_text() == "old"
    assert names(artefact.parent) == ["artefact"]


def test_old_comes_back_after_a_kill_between_the_renames(artefact, caplog):
    artefact.rename(artefact.with_name(".artefact.previous"))
    (artefact.parent / ".artefact.partial").mkdir()
    (artefact.parent / ".other.previous").mkdir()
    (artefact.parent / "other").mkdir()
    with exclusive(artefact.parent):
        assert names(artefact.parent) == [".lock", "artefact", "other"]
    assert (artefact / "model").read_text() == "old"
    assert "is back: a build was killed" in caplog.text


def test_link_to_a_folder_is_replaced_and_its_target_left(artefact):
    link = artefact.with_name("link")
    link.symlink_to(artefact)
    for text in ("first", "second"):
        with staged_folder(link) as folder:
            (folder / "model").write_text(text)
        assert (link / "model").read_text() == text
        assert not link.is_symlink()
    assert (artefact / "model").read_text() == "old"


def test_refusals_of_the_system_name_the_target(tmp_path):
    target = tmp_path / "new" / "artefact"
    for number in (errno.ENOSPC, errno.EROFS):
        with pytest.raises(StorageError, match=f"cannot write {target}"), writing(target):
            raise RuntimeError("the exporter's own") from OSError(number, os.strerror(number))
    with pytest.raises(StorageError), writing(target):
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "new"))
    # What could not be read is another matter.
    with pytest.raises(PermissionError), writing(target):
        raise PermissionError(errno.EACCES, "denied", "/elsewhere/image.png")


def test_file_is_replaced_whole(tmp_path):
    replace_file(tmp_path / "new" / "file", b"one")
    replace_file(tmp_path / "new" / "file", b"two")
    assert (tmp_path / "new" / "file").read_bytes() == b"two"
    assert names(tmp_path / "new") == ["file"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        replace_file(tmp_path / "folder", b"three")
    assert names(tmp_path) == ["folder", "new"]
