"""More products than memory holds, on the real server."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, bytes_input, enroll, inspect, listed, manage, same
from tritonclient.utils import InferenceServerException

from dinspect_server.assemble import ServingOptions, assemble
from dinspect_server.embedded import EmbeddedTriton

NUM_PRODUCTS = 12
NUM_THAT_FIT = 4
NUM_REQUESTS = 300


@pytest.fixture(scope="module")
def images(split):
    return [path.read_bytes() for path in split.enrolled[: NUM_PRODUCTS + 1]]


@pytest.fixture(scope="module")
def bank_bytes(served, images):
    """What one bank takes; the servers below search in the same precision."""
    with triton.InferenceServerClient(served.grpc_url) as client:
        enroll(client, "measured", images[:1], **PLAIN)
        return listed(client, "measured")[0]["loaded_bytes"]


@pytest.fixture(scope="module")
def small(artefacts_dir, bank_bytes, images, tmp_path_factory):
    """A server whose memory holds few of the products enrolled."""
    folder = tmp_path_factory.mktemp("little_memory")
    (folder / "artefacts").mkdir()
    (folder / "artefacts" / "square").symlink_to(artefacts_dir / "dinov2_vits14_448")
    limit = NUM_THAT_FIT * bank_bytes + bank_bytes // 2
    assemble(folder / "artefacts", folder / "repository", ServingOptions(max_bank_bytes=limit))
    with EmbeddedTriton(folder / "repository") as server:
        with triton.InferenceServerClient(server.grpc_url) as client:
            for index, image in enumerate(images[:NUM_PRODUCTS]):
                enroll(client, f"part-{index}", [image], **PLAIN)
        yield server


@pytest.fixture(scope="module")
def client(small):
    with triton.InferenceServerClient(small.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def tokens(client, split):
    """A part's patch tokens: what follows them is asked hundreds of times, the backbone once."""
    from reference import anomaly_dino_reference as reference

    pixels = np.ascontiguousarray(reference.pixels(split.defective[0])[None])
    tensor = triton.InferInput("pixels", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    output = triton.InferRequestedOutput("patch_tokens_12")
    return client.infer("dinov2_vits14_448", [tensor], outputs=[output]).as_numpy(output.name())


def score(client, tokens, *products):
    """What `cosine_knn` answers, the step of the ensemble that holds the banks."""
    count = len(products)
    batch = triton.InferInput("patch_tokens", [count, *tokens.shape[1:]], "FP32")
    batch.set_data_from_numpy(np.repeat(tokens, count, axis=0))
    size = triton.InferInput("image_size", [count, 2], "INT32")
    size.set_data_from_numpy(np.full((count, 2), 300, np.int32))
    names = bytes_input("product", [product.encode() for product in products], [count, 1])
    result = client.infer("cosine_knn_448", [batch, names, size])
    return {name: result.as_numpy(name) for name in ("anomaly_score", "patch_distances", "verdict")}


def knn_process(server):
    for child in psutil.Process(server.process_id).children():
        if "/cosine_knn_448/" in " ".join(child.cmdline()):
            return child
    raise AssertionError("cosine_knn_448 has no process")


def test_answers_do_not_depend_on_what_is_loaded(small, client, tokens):
    """Hundreds of requests at random over three times as many products as fit."""
    products = [f"part-{index}" for index in range(NUM_PRODUCTS)]
    first = {name: score(client, tokens, name) for name in products}
    assert len({float(answer["anomaly_score"][0, 0]) for answer in first.values()}) == NUM_PRODUCTS
    chosen = np.random.default_rng(0).choice(products, NUM_REQUESTS)
    resident = []
    for name in chosen:
        assert same(score(client, tokens, name), first[name]), name
        resident.append(knn_process(small).memory_info().rss)
    # What was dropped is freed: of the hundred banks loaded in the second half, 300 MB would stay.
    grown = max(resident[NUM_REQUESTS // 2 :]) - max(resident[: NUM_REQUESTS // 2])
    assert grown < 40e6


def test_least_recently_used_bank_is_dropped_and_no_other(small, client, tokens):
    """Without its file on disk a bank answers only if it is in memory."""
    names = [f"part-{index}" for index in range(NUM_THAT_FIT + 1)]
    first = {name: score(client, tokens, name) for name in names}
    for name in (*names[:-1], names[0], names[-1]):
        score(client, tokens, name)
    folders = {name: small.repository / "banks" / name / "1" for name in names}
    for folder in folders.values():
        (folder / "bank.safetensors").rename(folder / "away")
    try:
        for name in (names[0], *names[2:]):
            assert same(score(client, tokens, name), first[name]), name
        with pytest.raises(InferenceServerException, match="is missing"):
            score(client, tokens, names[1])
    finally:
        for folder in folders.values():
            (folder / "away").rename(folder / "bank.safetensors")
    assert same(score(client, tokens, names[1]), first[names[1]])


def test_batch_of_more_products_than_fit_is_answered(client, tokens):
    names = [f"part-{index}" for index in range(8)]
    together = score(client, tokens, *names)
    for row, name in enumerate(names):
        alone = score(client, tokens, name)
        assert all(np.array_equal(together[key][row], alone[key][0]) for key in alone), name


def test_whole_requests_are_answered_too(client, split):
    part = split.defective[1].read_bytes()
    names = [f"part-{index}" for index in range(NUM_THAT_FIT + 2)]
    first = {name: inspect(client, name, part) for name in names}
    for name in reversed(names):
        assert same(inspect(client, name, part), first[name])


def test_bank_that_can_never_fit_is_refused_with_the_sizes(client, bank_bytes, images, tokens):
    """At its enrolment, and the others stay as they are."""
    before = score(client, tokens, "part-0")
    limit = NUM_THAT_FIT * bank_bytes + bank_bytes // 2
    with pytest.raises(InferenceServerException, match=f"allows {limit}") as caught:
        enroll(client, "huge", images, preprocessing="no_mask_rotation")
    assert "bytes when loaded" in caught.value.message()
    assert "--max-bank-bytes" in caught.value.message()
    assert "huge" not in [one["product"] for one in listed(client)]
    assert same(score(client, tokens, "part-0"), before)


def test_versions_of_one_bank_take_its_memory_once(small, client, tokens):
    """New thresholds, again and again: the bank on disk is one file, and loaded it is one search."""
    score(client, tokens, "part-1")
    for index in range(2 * NUM_THAT_FIT):
        manage(client, "part-1", "threshold", threshold=0.1 + index / 100)
        score(client, tokens, "part-1")
    files = list((small.repository / "banks" / "part-1").glob("*/bank.safetensors"))
    assert len(files) == 2 * NUM_THAT_FIT + 1
    assert len({path.stat().st_ino for path in files}) == 1
