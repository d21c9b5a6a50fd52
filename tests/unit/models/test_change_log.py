"""The record of changes tells what was done, and nothing else, whenever a writer dies."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import pytest

from change_log import CHANGES_FILE, ChangeLog, LoggedChange

FIRST = LoggedChange("2026-01-01T00:00:00+00:00", "ada", "enrolled", "screw", 1, True)
SECOND = LoggedChange("2026-01-01T00:00:01+00:00", "bob", "activated", "screw", 1, True)
OTHER = LoggedChange("2026-01-01T00:00:02+00:00", "ada", "deleted", "nut", None, False)


@pytest.fixture
def log(tmp_path):
    return ChangeLog(tmp_path)


def make(log, *changes):
    for change in changes:
        with log.recording(change):
            pass


def die(*args):
    raise SystemExit


def killed_while(log, change, monkeypatch):
    """Leaves what a writer leaves that dies once the change is made."""
    with monkeypatch.context() as dying:
        dying.setattr(ChangeLog, "_append", die)
        with pytest.raises(SystemExit):
            make(log, change)


def all_of(log):
    return [*log.of("screw"), *log.of("nut")]


def test_changes_of_a_product_come_back_in_order(log):
    assert log.of("screw") == []
    make(log, FIRST, OTHER, SECOND)
    assert log.of("screw") == [asdict(FIRST), asdict(SECOND)]
    assert log.of("nut") == [asdict(OTHER)]
    assert log.of("bolt") == []


def test_log_is_lines_of_json_and_nothing_else_is_left(log, tmp_path):
    make(log, FIRST, SECOND)
    lines = (tmp_path / CHANGES_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(FIRST), asdict(SECOND)]
    assert os.listdir(tmp_path) == [CHANGES_FILE]


def test_operator_may_be_called_anything(log):
    strange = LoggedChange("", 'Zoë\n"\u2028\x85\ud800', "enrolled", "screw", 1, True)
    make(log, strange, SECOND)
    assert log.of("screw") == [asdict(strange), asdict(SECOND)]


def test_change_is_noted_before_it_is_made(log, tmp_path):
    with log.recording(FIRST):
        assert log.of("screw") == []
        (note,) = [name for name in os.listdir(tmp_path) if name != CHANGES_FILE]
        assert json.loads((tmp_path / note).read_text()) == asdict(FIRST)
    assert log.of("screw") == [asdict(FIRST)]


@pytest.mark.parametrize("made", [True, False])
def test_change_of_a_writer_that_failed_is_settled_by_what_is_there(log, tmp_path, made):
    with pytest.raises(OSError, match="disk"), log.recording(FIRST):
        raise OSError("disk full")
    assert log.of("screw") == []
    asked = []
    log.settle(lambda change: asked.append(change) or (change if made else None))
    assert asked == [FIRST]
    assert log.of("screw") == ([asdict(FIRST)] if made else [])
    log.settle(lambda change: pytest.fail("settled twice"))
    assert set(os.listdir(tmp_path)) <= {CHANGES_FILE}


def test_writer_that_died_after_it_had_logged_is_not_logged_twice(log, tmp_path, monkeypatch):
    with monkeypatch.context() as dying:
        dying.setattr(type(tmp_path), "unlink", die)
        with pytest.raises(SystemExit):
            make(log, FIRST)
    assert log.of("screw") == [asdict(FIRST)]
    log.settle(lambda change: change)
    assert log.of("screw") == [asdict(FIRST)]


@pytest.mark.parametrize("kept", range(1, 20, 6))
def test_line_cut_short_spoils_neither_its_own_change_nor_the_next(
    log, tmp_path, monkeypatch, kept
):
    make(log, FIRST)
    killed_while(log, SECOND, monkeypatch)
    with (tmp_path / CHANGES_FILE).open("ab") as file:
        file.write(json.dumps(asdict(SECOND)).encode()[:kept])
    assert log.of("screw") == [asdict(FIRST)]
    log.settle(lambda change: change)
    make(log, OTHER)
    assert all_of(log) == [asdict(FIRST), asdict(SECOND), asdict(OTHER)]


@pytest.mark.parametrize("note", [b"", b'{"at": "2026', b"[]", b"5", b'{"at": 1}', b"\xff"])
def test_note_cut_short_means_that_nothing_was_begun(log, tmp_path, monkeypatch, note):
    killed_while(log, FIRST, monkeypatch)
    (pending,) = tmp_path.iterdir()
    pending.write_bytes(note)
    log.settle(lambda change: pytest.fail("there is nothing to ask for"))
    assert os.listdir(tmp_path) == []


def test_lines_that_somebody_spoiled_hide_no_others(log, tmp_path):
    make(log, FIRST)
    foreign = b'\xff\xfe\n[1, 2]\n"screw"\nnull\n{"product": 5}\n{}\n{"product": "screw"\n\n'
    with (tmp_path / CHANGES_FILE).open("ab") as file:
        file.write(foreign)
    make(log, SECOND)
    assert log.of("screw") == [asdict(FIRST), asdict(SECOND)]


def test_highest_version_is_the_highest_ever_told_of(log, tmp_path):
    assert log.highest_version("screw") == 0
    for version in (3, 12, None, 4):
        make(log, LoggedChange("", "", "enrolled", "screw", version, True))
    make(log, LoggedChange("", "", "enrolled", "nut", 99, True))
    with (tmp_path / CHANGES_FILE).open("ab") as file:
        file.write(b'{"product": "screw", "version": "77"}\n')
    assert log.highest_version("screw") == 12
