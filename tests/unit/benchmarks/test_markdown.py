"""The foot of a table: the machine and the commit its records name, and no other."""

from __future__ import annotations

from dinspect_bench.markdown import measured_on


def record(model, commit, changed_files=False):
    git = {"commit": commit * 40, "changed_files": changed_files} if commit else None
    cpu = {"model": model, "usable_cores": 2, "flags": ["avx2", "fma"], "clock_mhz": {}}
    return {"environment": {"cpu": cpu, "git": git}}


def test_machine_is_that_of_the_records():
    found = measured_on([record("A", "1")] * 2)
    assert found == "2 cores of A (avx2, fma), commit 111111111111."


def test_each_machine_and_commit_is_named_once_in_their_order():
    records = [record("B", "1"), record("A", "2", changed_files=True), record("B", "1")]
    assert measured_on([*records, record("B", None)]) == (
        "2 cores of B (avx2, fma), commit 111111111111; "
        "then on 2 cores of A (avx2, fma), commit 222222222222 with changes; "
        "then on 2 cores of B (avx2, fma), outside a checkout."
    )


def test_records_without_an_environment_are_not_of_this_machine():
    for records in ([], [{}], [{"environment": None}]):
        assert measured_on(records) == "a machine that no record describes."
