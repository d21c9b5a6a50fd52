"""A category is a product for as long as it is measured; with a stand-in for the server."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from accuracy_fakes import FakeClient
from small_trees import write_mvtec_category

from dinspect_bench.accuracy.protocol import plan_protocols
from dinspect_bench.accuracy.temporary_product import (
    ProductMaker,
    calibrating_images,
    product_name,
)
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.errors import AccuracyError
from dinspect_client.wire import is_product_name

(PROTOCOL,) = plan_protocols(["anomaly_dino"], [2], [0])
KEY = {"category": "nut", "shots": 2}


@pytest.fixture
def category(tmp_path):
    return load_mvtec(write_mvtec_category(tmp_path / "nut", num_good=12))[0]


@pytest.fixture
def client():
    return FakeClient(answer_of=None)


@pytest.fixture
def maker(client, tmp_path):
    return ProductMaker(client, "host:1", tmp_path / "work", "me")


def test_product_is_enrolled_and_gone_afterwards(maker, client, category):
    with maker.product(category, category.good[:2], PROTOCOL, KEY) as version:
        assert list(client.there) == [version.product]
    assert client.there == {}
    ((name, images, options),) = client.made
    assert images == list(category.good[:2])
    assert name.startswith("bench-accuracy-")
    assert options == {
        "resolution": 448, "preprocessing": "agnostic", "texture": False, "rotated": False
    }  # fmt: skip


def test_product_is_gone_after_a_failure_too(maker, client, category):
    with pytest.raises(RuntimeError, match="boom"):  # noqa: SIM117
        with maker.product(category, category.good[:2], PROTOCOL, KEY):
            raise RuntimeError("boom")
    assert client.there == {}


def test_failure_is_told_and_not_that_the_product_cannot_be_deleted(maker, client, category):
    def fails():
        client.there.clear()
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):  # noqa: SIM117
        with maker.product(category, category.good[:2], PROTOCOL, KEY):
            fails()


def test_product_stays_if_it_is_kept(maker, client, category):
    with replace(maker, keep=True).product(category, category.good[:2], PROTOCOL, KEY) as version:
        pass
    assert list(client.there) == [version.product]


def test_what_a_killed_run_left_is_removed(maker, client, category):
    name = product_name(KEY, "me")
    client.there[name] = "bench-accuracy"
    with maker.product(category, category.good[:2], PROTOCOL, KEY) as version:
        assert version.product == name
    assert client.there == {}


def test_product_of_somebody_else_is_never_touched(maker, client, category):
    name = product_name(KEY, "me")
    client.there[name] = "ada"
    with pytest.raises(AccuracyError, match=f"has a product {name} that ada made"):  # noqa: SIM117
        with maker.product(category, category.good[:2], PROTOCOL, KEY):
            pass
    assert client.there == {name: "ada"}
    assert not client.made


def test_training_is_kept_until_its_row_is_on_record(maker, client, category, monkeypatch):
    (protocol,) = plan_protocols(["l2bt"], [2], [0], epochs=3)
    plans = []

    def train(client, url, plan, progress):
        plans.append(plan)
        folder = plan.work_dir / f"{plan.product}-0123456789abcdef"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "students.safetensors").write_bytes(b"students")
        client.there[plan.product] = plan.operator
        return SimpleNamespace(product=plan.product)

    monkeypatch.setattr("dinspect_server.student_training.train_product", train)
    other = maker.work_dir / "bench-accuracy-of-another-row-0123456789abcdef"
    other.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="killed"):  # noqa: SIM117
        with maker.product(category, category.good[:2], protocol, KEY):
            raise RuntimeError("killed while it inspects")
    (plan,) = plans
    assert (plan.keep, plan.options.epochs) == (True, 3)
    assert len(list(maker.work_dir.iterdir())) == 2
    client.there.clear()
    with maker.product(category, category.good[:2], protocol, KEY):
        pass
    assert plans[0] == plans[1]  # the same folder and the same training, to go on with
    maker.forget(KEY)
    assert list(maker.work_dir.iterdir()) == [other]


def test_name_is_that_of_the_measurement_and_its_owner():
    name = product_name(KEY, "me")
    assert is_product_name(name)
    assert name == product_name(dict(reversed(KEY.items())), "me")
    assert len({name, product_name(KEY, "you"), product_name(KEY | {"shots": 1}, "me")}) == 3


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("agnostic", (True, False)),
        ("informed", (True, True)),
        ("masking_only", (True, False)),
        ("mask_rotation", (False, False)),
    ],
)
def test_what_is_known_of_parts_is_said_where_the_setting_asks(
    maker, client, category, setting, expected
):
    known = replace(category, texture=True, rotated=True)
    (protocol,) = plan_protocols(["anomaly_dino"], [2], [0], preprocessing=setting, resolution=224)
    with maker.product(known, known.good[:2], protocol, KEY):
        pass
    options = client.made[0][2]
    assert (options["texture"], options["rotated"]) == expected
    assert (options["preprocessing"], options["resolution"]) == (setting, 224)


def test_thresholds_rest_on_good_images_that_are_not_learnt_from(category):
    chosen = calibrating_images(category, category.good[:2])
    assert chosen == category.good[2:10]
    assert calibrating_images(category, category.good) == ()


def test_thresholds_rest_on_no_copies(category):
    for number in (2, 3, 5):
        category.good[number].write_bytes(category.good[number - 1].read_bytes())
    names = [path.stem for path in calibrating_images(category, category.good[:2])]
    assert names == ["004", "006", "007", "008", "009", "010", "011"]
