from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from refusals import InspectionRefused
from sessions import MAX_SESSIONS, SESSION_TIMEOUT_S, Sessions


@dataclass
class Work:
    touched_s: float = field(default_factory=time.monotonic)
    closed: bool = False

    def close(self):
        self.closed = True


def test_work_is_found_by_its_session_until_it_is_dropped():
    sessions = Sessions("enrolments")
    work = Work()
    sessions.put("a", work)
    assert (sessions.get("a"), sessions.get("b")) == (work, None)
    sessions.drop("a")
    sessions.drop("a")
    assert work.closed
    assert sessions.get("a") is None


def test_abandoned_work_is_closed_and_touched_work_is_kept():
    sessions = Sessions("enrolments")
    old = Work(touched_s=time.monotonic() - SESSION_TIMEOUT_S - 1)
    young = Work(touched_s=time.monotonic() - SESSION_TIMEOUT_S + 60)
    sessions.put("old", old)
    sessions.put("young", young)
    assert sessions.get("old") is None
    assert (old.closed, young.closed) == (True, False)


def test_too_much_open_work_is_refused_and_closed():
    sessions = Sessions("enrolments")
    for number in range(MAX_SESSIONS):
        sessions.put(f"{number}", Work())
    sessions.put("0", Work())  # going on is no new session
    extra = Work()
    with pytest.raises(InspectionRefused, match=f"{MAX_SESSIONS} enrolments are open already"):
        sessions.put("extra", extra)
    assert extra.closed
