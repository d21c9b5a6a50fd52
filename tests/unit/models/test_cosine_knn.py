"""The `cosine_knn` model: images of one request may be of different products."""

from __future__ import annotations

import numpy as np
import pytest
import triton_stub
from bundles import DIM, IMAGE_SIZE, ONNX_SHA256, make_bank, publish, unit_rows
from reference.anomaly_dino_reference import mean_of_k_nearest

import bank_cache
from bank_search import bank_size_bytes
from bank_store import BankStore

ONE_BANK = bank_size_bytes(12, DIM, "fp32")
TOKENS = np.stack([unit_rows(6, seed=seed) for seed in range(100, 104)])


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def model(tmp_path, store, monkeypatch):
    """A model whose limit holds one bank."""
    return triton_stub.load(
        monkeypatch,
        "cosine_knn",
        tmp_path,
        onnx_sha256=ONNX_SHA256,
        search_precision="fp32",
        max_bank_bytes=str(ONE_BANK),
    )


def respond(model, products, sizes=None):
    sizes = sizes or [IMAGE_SIZE] * len(products)
    return model.execute(
        [
            triton_stub.request(
                patch_tokens=TOKENS[: len(products)],
                product=products,
                image_size=np.array(sizes, np.int32),
            )
        ]
    )[0]


def test_images_of_a_request_may_be_of_different_products(model, store):
    for seed, name in enumerate("abc"):
        publish(store, name, seed=seed)
    publish(store, "a", seed=7)
    outputs = respond(model, ["c", "a", "b", "a@1"]).outputs
    for image, seed in enumerate((2, 7, 1, 0)):
        expected = mean_of_k_nearest(TOKENS[image], make_bank(seed=seed).tokens, 1).reshape(2, 3)
        np.testing.assert_allclose(outputs["patch_distances"][image], expected, atol=1e-5)
        assert outputs["anomaly_score"][image, 0] == pytest.approx(expected.max(), abs=1e-5)
    assert outputs["bundle_version"].tolist() == [[1], [2], [1], [1]]
    assert np.array_equal(outputs["patch_distances"], outputs["distance_grid"])


def test_no_request_holds_more_banks_than_the_limit(model, store, monkeypatch):
    """Not even one whose images are all of different products."""
    alive, most = [0], [0]

    class Counted:
        size_bytes = ONE_BANK

        def __init__(self, bank, *args):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

        def distances(self, queries):
            return np.zeros(len(queries), np.float32)

    monkeypatch.setattr(bank_cache, "open_bank", Counted)
    for seed, name in enumerate("abcd"):
        publish(store, name, seed=seed)
    for _ in range(2):
        assert respond(model, ["a", "b", "c", "d"]).error is None
    assert most == [1]


@pytest.mark.parametrize(
    ("products", "sizes", "reason"),
    [
        (["a", "nut"], None, "unknown product 'nut'"),
        (["a", ""], None, "is not a name"),
        (["a", "a@2"], None, "no version 2"),
        (["a", "a"], [IMAGE_SIZE, (150, 100)], "a product has one camera geometry"),
    ],
)
def test_image_that_cannot_be_scored_fails_its_request_with_a_reason(
    model, store, products, sizes, reason
):
    publish(store, "a")
    error = respond(model, products, sizes).error
    assert error.code == "INVALID_ARG"
    assert reason in str(error)
    assert respond(model, ["a"]).error is None
