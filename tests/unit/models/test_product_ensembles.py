"""A product's ensembles appear whole or not at all, and go with their product."""

from __future__ import annotations

import itertools
import os
import shutil

import pytest
from power_cuts import Power
from served_repository import NAMES, Repository

from product_ensembles import CONFIG_FILE
from refusals import InspectionRefused
from work_folder import remove_abandoned


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_product_has_an_ensemble_for_each_kind_of_image(repository):
    repository.ensembles.ensure("screw", "28", [8, 12])
    assert repository.there() == NAMES
    assert repository.triton.told == [("load", name) for name in NAMES]
    assert os.listdir(repository.hidden) == []
    for name in NAMES:
        text = (repository.models / name / CONFIG_FILE).read_text()
        assert f'name: "{name}"' in text
        assert "@" not in text
        for layer in (8, 12):
            assert f'key: "patch_tokens_{layer}"' in text
        assert 'model_name: "students_28"' in text


def test_ensemble_that_is_there_is_kept_and_loaded_again(repository):
    """A loaded one stays as it is, and one that is not for whatever reason comes back."""
    repository.ensembles.ensure("screw", "28", [8, 12])
    inodes = [(repository.models / name).stat().st_ino for name in NAMES]
    repository.ensembles.ensure("screw", "28", [8, 12])
    assert [(repository.models / name).stat().st_ino for name in NAMES] == inodes
    assert repository.triton.told == 2 * [("load", name) for name in NAMES]


@pytest.mark.parametrize("layers", [[4, 12], [4, 8]])
def test_other_blocks_are_refused_and_nothing_is_touched(repository, layers):
    repository.ensembles.ensure("screw", "28", [8, 12])
    before = {name: (repository.models / name / CONFIG_FILE).read_bytes() for name in NAMES}
    told = list(repository.triton.told)
    with pytest.raises(
        InspectionRefused, match=f"other blocks than .{layers[0]}, {layers[1]}.; del"
    ):
        repository.ensembles.ensure("screw", "28", layers)
    assert before == {name: (repository.models / name / CONFIG_FILE).read_bytes() for name in NAMES}
    assert repository.triton.told == told
    repository.ensembles.ensure("nut", "28", layers)
    repository.ensembles.ensure("screw", "56", layers)


@pytest.mark.parametrize("label", ["28x42", "112", "../28"])
def test_size_without_a_template_is_refused(repository, label):
    with pytest.raises(InspectionRefused, match="pads images to one; train at a square size"):
        repository.ensembles.ensure("screw", label, [8, 12])
    assert repository.there() == []


def test_removed_ensembles_are_unloaded_and_gone(repository):
    for product, label in (("screw", "28"), ("screw", "56"), ("nut", "28")):
        repository.ensembles.ensure(product, label, [8, 12])
    repository.triton.told.clear()
    repository.ensembles.remove("screw", ["28", "28x42", "56"])
    assert repository.triton.told == [
        ("unload", name) for name in [*NAMES, "l2bt_screw_56", "l2bt_screw_56_raw"]
    ]
    assert repository.there() == ["l2bt_nut_28", "l2bt_nut_28_raw"]
    assert os.listdir(repository.hidden) == []
    repository.ensembles.remove("screw", ["28"])  # nothing is there, nothing happens
    repository.ensembles.ensure("screw", "28", [4, 8])
    assert repository.there() == ["l2bt_nut_28", "l2bt_nut_28_raw", *NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_ensemble_that_cannot_be_loaded_does_not_stay(repository, name):
    """The server would not start with it any more."""
    repository.triton.failing = name
    with pytest.raises(RuntimeError, match="cannot load"):
        repository.ensembles.ensure("screw", "28", [8, 12])
    assert name not in repository.there()
    assert os.listdir(repository.hidden) == []
    repository.triton.failing = ""
    repository.ensembles.ensure("screw", "28", [8, 12])
    assert repository.there() == NAMES


def test_served_ensemble_stays_when_loading_it_again_fails(repository):
    repository.ensembles.ensure("screw", "28", [8, 12])
    repository.triton.failing = NAMES[0]
    with pytest.raises(RuntimeError, match="cannot load"):
        repository.ensembles.ensure("screw", "28", [8, 12])
    assert repository.there() == NAMES


@pytest.mark.parametrize("action", ["ensure", "remove"])
def test_power_may_be_cut_at_any_step(tmp_path, monkeypatch, action):
    """What is among the models is whole, what is not is a leftover that the store clears away."""
    power = Power(monkeypatch)
    between = set()
    for steps in itertools.count():
        repository = Repository(tmp_path / str(steps))
        if action == "remove":
            repository.ensembles.ensure("screw", "28", [8, 12])

        def act(ensembles=repository.ensembles):
            if action == "ensure":
                ensembles.ensure("screw", "28", [8, 12])
            else:
                ensembles.remove("screw", ["28"])

        if not power.is_cut(tmp_path / str(steps), act, steps):
            break
        between.add(tuple(repository.there()))
        for name in repository.there():
            text = (repository.models / name / CONFIG_FILE).read_text()
            assert text.count("{") == text.count("}") > 10
            assert (repository.models / name / "1").is_dir()
        remove_abandoned(repository.hidden)
        assert os.listdir(repository.hidden) == []
        repository.ensembles.ensure("screw", "28", [8, 12])
        assert repository.there() == NAMES
        shutil.rmtree(tmp_path / str(steps))
    assert steps > 4
    assert between == {(), (NAMES[0],), tuple(NAMES)} or between == {
        (), (NAMES[1],), tuple(NAMES),
    }  # fmt: skip
