"""Whenever the power is cut, students that are visible are whole, and so are their ensembles."""

from __future__ import annotations

import itertools
import os
import shutil

import pytest
from bundles import AT
from power_cuts import Power
from served_repository import Repository
from store_files import hidden
from trainings import RUN_BY, SERVED, publish_trained, training_files

from management import Asked
from student_management import StudentManagement
from student_thresholds import change_student_thresholds
from students_store import StudentsStore
from wire import TRAINING_FILES


def publish(management, product, **changes):
    """As `manage` does it: ensemble and version."""
    for name, content in training_files(2.0, **changes).items():
        options = {"session": "s", "file": name, "commit": name == TRAINING_FILES[-1]}
        management.publish_part(Asked(product, options, content))


ACTS = {
    "publish": lambda manage: publish(manage, "screw"),
    "publish a new product": lambda manage: publish(manage, "bolt"),
    "delete a product": lambda manage: manage.delete(Asked("screw", {}, b"")),
    "change a threshold": lambda manage: change_student_thresholds(
        manage.store, manage.store.read_bundle("screw", 2), {"threshold": 0.5}, "ada"
    ),
}


def opened(root):
    """A repository as a server that starts anew finds it."""
    repository = Repository.__new__(Repository)
    repository.models, repository.templates = root / "models", root / "manage"
    repository.hidden = root / "students"
    repository.start()
    manage = StudentManagement(
        StudentsStore(repository.hidden),
        [SERVED],
        repository.ensembles,
        lambda size: {"runtime": "openvino", "precision": "fp32"},
        RUN_BY,
        10**8,
    )
    return repository, manage


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two products: `screw` with two versions, the second in force."""
    root = tmp_path_factory.mktemp("prepared") / "repository"
    Repository(root, hidden="students")
    _, manage = opened(root)
    publish(manage, "nut")
    publish(manage, "screw")
    publish(manage, "screw", sigma_px=3.0)
    return root


def state(store):
    """What a client can see."""
    return {name: (store.resolve(name), store.versions(name)) for name in store.products()}


def require_whole(repository, store):
    """Every version is whole and can be asked for, every ensemble could be started with."""
    served = repository.there()
    for product, versions in store.products().items():
        assert store.resolve(product)[1] in versions
        for version in versions:
            record = store.read_bundle(product, version)
            store.students_file(record)
            store.read_good_parts(record)
        assert {f"l2bt_{product}_28", f"l2bt_{product}_28_raw"} <= set(served)
    for name in served:
        assert sorted(os.listdir(repository.models / name)) == ["1", "config.pbtxt"]
        assert (repository.models / name / "config.pbtxt").read_text().rstrip().endswith("}")


@pytest.mark.parametrize("name", ACTS)
def test_power_may_be_cut_at_any_step(name, prepared, tmp_path, monkeypatch):
    before = state(StudentsStore(prepared / "students"))
    shutil.copytree(prepared, tmp_path / "undisturbed")
    _, manage = opened(tmp_path / "undisturbed")
    ACTS[name](manage)
    after = state(manage.store)
    power = Power(monkeypatch)
    outcomes = []
    for steps in itertools.count():
        root = tmp_path / f"cut after {steps}"
        shutil.copytree(prepared, root)
        _, manage = opened(root)
        if not power.is_cut(root, lambda: ACTS[name](manage), steps):  # noqa: B023
            break
        visible = state(StudentsStore(root / "students"))
        repository, manage = opened(root)  # clears what the dead one left
        require_whole(repository, manage.store)
        outcomes.append(state(manage.store))
        assert outcomes[-1] == visible
        assert set(hidden(manage.store)) <= {".changes.jsonl", ".lock", ".numbers"}
        require_living(repository, manage)
        shutil.rmtree(root)
    assert len(outcomes) > 5
    assert outcomes[0] == before
    assert outcomes[-1] == after
    between = [one for one in outcomes if one not in (before, after)]
    assert not between or name in ("publish", "change a threshold")


def require_living(repository, manage):
    """Everything can go on, and no number is given twice."""
    for product in ("screw", "bolt"):
        taken = [change["version"] or 0 for change in manage.store.changes(product)]
        publish(manage, product)
        _, version = manage.store.resolve(product)
        assert version > max([0, *taken])
        require_whole(repository, manage.store)
        manage.delete(Asked(product, {}, b""))
        assert not [name for name in repository.there() if f"_{product}_" in name]
        assert publish_trained(manage.store, product).version == version + 1
        manage.store.delete(product, None, "ada", AT)
