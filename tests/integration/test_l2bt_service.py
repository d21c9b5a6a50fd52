"""L2BT's products on the real server: their life, and that nobody notices a publication."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from integration.builds import describe
from integration.random_students import RandomStudents, publish, tokens_of, training_files
from integration.steady_requests import Line, running
from integration.triton_calls import (
    PLAIN,
    bytes_input,
    enroll,
    inspect,
    listed,
    manage,
    named_outputs,
    same,
)
from PIL import Image
from tritonclient.utils import InferenceServerException

from dinspect_client import InspectionClient
from dinspect_client.wire import Verdict
from dinspect_export.manifest import read_backbones
from dinspect_server.assemble import ServingOptions, assemble
from dinspect_server.embedded import EmbeddedTriton

logger = logging.getLogger(__name__)

GRID = (16, 16)
BLOCKS = (4, 8, 12)
NUM_PUBLICATIONS = 20


@pytest.fixture(scope="module")
def small_artefacts(split, tmp_path_factory):
    """ViT-S/14 at 224 x 224 with three blocks."""
    from dinspect_export.build import build
    from dinspect_export.description import read_description

    path = describe(tmp_path_factory.mktemp("l2bt"), split, [224])
    path.write_text(path.read_text() + f"layers = {list(BLOCKS)}\n")
    assert len(list(build(read_description(path)))) == 1
    return path.parent / "build" / "artefacts"


@pytest.fixture(scope="module")
def backbone_sha256(small_artefacts):
    (found,) = read_backbones(small_artefacts, "fp32")
    return found.manifest.onnx_sha256


@pytest.fixture(scope="module")
def plant(small_artefacts, tmp_path_factory):
    """A server in FP32."""
    repository = tmp_path_factory.mktemp("l2bt_served")
    assemble(small_artefacts, repository, ServingOptions(precision="fp32"))
    with EmbeddedTriton(repository) as server:
        yield server


@pytest.fixture(scope="module")
def client(plant):
    with triton.InferenceServerClient(plant.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def part(split):
    return split.defective[0].read_bytes()


@pytest.fixture(scope="module")
def trained(client, split, backbone_sha256, tmp_path_factory):
    """Makes the files of random students of a seed, from two good parts."""
    folder = tmp_path_factory.mktemp("students")
    tokens = tokens_of(client, "224", BLOCKS, *(path.read_bytes() for path in split.enrolled[:2]))

    @functools.cache
    def made(seed, layers):
        students = RandomStudents(seed, GRID, layers)
        return training_files(students, folder, backbone_sha256, tokens, (300, 300))

    def make(seed, layers=(8, 12), **changes):
        files = dict(made(seed, layers))
        said = json.loads(files["training.json"]) | changes
        return files | {"training.json": json.dumps(said).encode()}

    return make


def ask(client, reference, *images, **options):
    """An inspection by the product's own ensemble."""
    return inspect(
        client, reference, *images, model=f"l2bt_{reference.split('@')[0]}_224", **options
    )


def without_version(answer):
    return {name: value for name, value in answer.items() if name != "bundle_version"}


def test_raw_image_is_answered_as_the_encoded_one(client, trained, part):
    publish(client, "raw", trained(1))
    pixels = np.asarray(Image.open(io.BytesIO(part)).convert("RGB"))[:, :221]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    publish(client, "raw", trained(1, image_size=[300, 221]))
    encoded = ask(client, "raw", stream.getvalue(), stream.getvalue())
    image = triton.InferInput("image_rgb", [2, *pixels.shape], "UINT8")
    image.set_data_from_numpy(np.stack([pixels, pixels]))
    products = bytes_input("product", [b"raw", b"raw"], [2, 1])
    raw = named_outputs(client.infer("l2bt_raw_224_raw", [image, products]))
    assert same(raw, encoded)
    assert raw["anomaly_map"].shape == (2, 300, 221)


def test_each_output_may_be_asked_for_alone(client, trained, part):
    publish(client, "alone", trained(1))
    everything = ask(client, "alone", part)
    assert len(everything) == 8
    for name, value in everything.items():
        (found,) = ask(client, "alone", part, outputs=[name]).values()
        assert np.array_equal(found, value), name


def test_batch_of_two_products_answers_each_by_its_own(client, trained, part, split):
    publish(client, "one", trained(1))
    publish(client, "two", trained(2, smoothing="boxes", threshold=0.5))
    other = split.functional[0].read_bytes()
    rows = [("one", part), ("two", part), ("two", other), ("one@1", other)]
    alone = [ask(client, name, image) for name, image in rows]
    inputs = [
        bytes_input("image", [image for _, image in rows], [4, 1]),
        bytes_input("product", [name.encode() for name, _ in rows], [4, 1]),
    ]
    together = named_outputs(client.infer("l2bt_one_224", inputs))
    for row, answer in enumerate(alone):
        for name, value in answer.items():
            assert np.array_equal(together[name][row], value[0]), (row, name)
    assert len({answer["anomaly_score"].item() for answer in alone}) == 4


def test_ensemble_of_other_blocks_gives_no_answer(client, trained, part):
    """Students of blocks 4 and 12 would take the tokens of 8 for those of 4, without a word."""
    publish(client, "eight", trained(1))
    publish(client, "four", trained(1, (4, 12)))
    with pytest.raises(InferenceServerException, match="has no input 'patch_tokens_4'") as caught:
        inspect(client, "four", part, model="l2bt_eight_224")
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="has no input 'patch_tokens_8'"):
        inspect(client, "eight", part, model="l2bt_four_224")


def test_life_of_a_product(client, trained, part, split):
    """Publish, wait, put in force, go back, pin, change thresholds, delete; the bank stays."""
    enroll(client, "lived", [split.enrolled[0].read_bytes()], **PLAIN)
    bank = inspect(client, "lived", part, model="anomaly_dino_224")
    assert publish(client, "lived", trained(1), operator="ada")[0] == 1
    first = ask(client, "lived", part)
    assert publish(client, "lived", trained(2), activate=False)[0] == 2
    assert same(ask(client, "lived", part), first)
    second = ask(client, "lived@2", part)
    assert not np.array_equal(first["patch_distances"], second["patch_distances"])
    assert manage(client, "lived@2", "activate", method="l2bt")[0] == 2
    assert same(ask(client, "lived", part), second)
    assert manage(client, "lived@1", "activate", method="l2bt")[0] == 1
    assert same(ask(client, "lived", part), first)
    score = float(first["anomaly_score"][0, 0])
    for by_hand, verdict in (
        ((2 * score, 1.5 * score), Verdict.NORMAL),
        ((1.5 * score, 0.5 * score), Verdict.UNDECIDED),
        ((0.5 * score, 0.2 * score), Verdict.ANOMALOUS),
    ):
        version, report, _ = manage(
            client, "lived", "threshold", method="l2bt", threshold=by_hand[0],
            normal_below=by_hand[1],
        )  # fmt: skip
        answer = ask(client, "lived", part)
        assert answer["verdict"][0, 0] == verdict
        assert answer["threshold"][0, 0] == np.float32(by_hand[0])
        assert answer["bundle_version"][0, 0] == report["version"] == version
        assert np.array_equal(answer["anomaly_map"], first["anomaly_map"])
    assert manage(client, "lived@2", "delete", method="l2bt")[1]["deleted"] == [2]
    with pytest.raises(InferenceServerException, match=r"no version 2; it has \[1, 3, 4, 5\]"):
        ask(client, "lived@2", part)
    assert [one["method"] for one in listed(client, "lived")] == ["anomaly_dino", "l2bt"]
    assert manage(client, "lived", "delete", method="l2bt")[1]["deleted"] == [1, 3, 4, 5]
    with pytest.raises(InferenceServerException, match="unknown model: 'l2bt_lived_224'"):
        ask(client, "lived", part)
    assert same(inspect(client, "lived", part, model="anomaly_dino_224"), bank)
    # Anew, of other blocks.
    assert publish(client, "lived", trained(1, (4, 12)))[0] == 6
    assert not np.allclose(ask(client, "lived", part)["patch_distances"], first["patch_distances"])
    assert manage(client, "lived", "delete")[1]["deleted"] == [1]
    assert ask(client, "lived", part)["bundle_version"][0, 0] == 6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": (4, 12)}, "served for students of other blocks than"),
        ({"backbone_sha256": "e" * 64}, "trained on tokens of backbone eeeeeeeeeeee"),
        ({"dim": 768}, "and width 768"),
        ({"grid": [32, 32]}, "of a grid .32, 32."),
        ({"image_size": [9000, 9000]}, "too many pixels"),
        ({"calibration": "good_images"}, "0 good images are named"),
        ({"sigma_px": "wide"}, "TrainingReport.sigma_px is 'wide'"),
    ],
    ids=str,
)
def test_training_that_does_not_fit_is_refused_and_changes_nothing(
    client, trained, part, changes, reason
):
    if not listed_or_none(client, "kept"):
        publish(client, "kept", trained(1))
    before = ask(client, "kept", part)
    with pytest.raises(InferenceServerException, match=reason) as caught:
        publish(client, "kept", trained(2, **changes))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert same(ask(client, "kept", part), before)
    assert listed(client, "kept")[0]["versions"] == [1]


def listed_or_none(client, product):
    try:
        return listed(client, product)
    except InferenceServerException:
        return []


def test_image_of_another_geometry_is_refused(client, trained, part):
    publish(client, "square", trained(1))
    pixels = Image.open(io.BytesIO(part)).convert("RGB").crop((0, 0, 200, 300))
    stream = io.BytesIO()
    pixels.save(stream, "PNG")
    with pytest.raises(InferenceServerException, match="200 x 300 px, but product 'square'"):
        ask(client, "square", stream.getvalue())


def test_client_publishes_and_inspects(plant, trained, split):
    files = dict(trained(3))
    training = json.loads(files["training.json"])
    with InspectionClient(plant.grpc_url) as connected:
        version = connected.publish_students(
            "by-client", training, files["students.onnx"], files["good_parts.safetensors"],
            operator="ada",
        )  # fmt: skip
        assert (version.product, version.version) == ("by-client", 1)
        result = connected.inspect("by-client", split.defective[0], method="l2bt")
        assert result.anomaly_map.shape == (300, 300)
        assert result.threshold == pytest.approx(version.threshold)


def test_nobody_notices_twenty_publications(plant, client, trained, part, split):
    """Of the product that is asked for, and of others; requests by four threads, none fails."""
    publish(client, "steady", trained(1))
    students = [trained(seed) for seed in (11, 12)]
    other = split.functional[0].read_bytes()
    for files in students:
        publish(client, "changing", files)
    steady = without_version(ask(client, "steady", other))
    changing = [without_version(ask(client, f"changing@{number}", part)) for number in (1, 2)]
    lines = [
        Line(
            plant.grpc_url, "steady", other, "l2bt_steady_224", lambda version: steady
        )
        for _ in range(2)
    ] + [
        Line(
            plant.grpc_url, "changing", part, "l2bt_changing_224",
            lambda version: changing[(version - 1) % 2],
        )
        for _ in range(2)
    ]  # fmt: skip
    with running(lines):
        for number in range(NUM_PUBLICATIONS):
            files = students[number // 2 % 2]
            publish(client, "changing" if number % 2 else f"new-{number}", files)
            if number % 2:
                answer = ask(client, "changing", part)
                assert answer["bundle_version"][0, 0] == 3 + number // 2  # at once
                for line in lines:
                    line.wait_for_another()
    assert [line.faults for line in lines] == [[]] * 4
    counts = [len(line.versions) for line in lines]
    logger.info("%d publications, %s answers", NUM_PUBLICATIONS, counts)
    assert min(counts) >= NUM_PUBLICATIONS // 2
    for line in lines[2:]:
        assert line.versions == sorted(line.versions)
        assert len(set(line.versions)) > 3
    assert listed(client, "changing")[0]["versions"] == list(range(1, 13))


def process_of(server, model):
    for child in psutil.Process(server.process_id).children():
        if f"/{model}/" in " ".join(child.cmdline()):
            return child
    raise AssertionError(f"{model} has no process")


def test_students_come_back_when_their_process_dies(plant, client, trained, part):
    publish(client, "revived", trained(1))
    before = ask(client, "revived", part)
    process_of(plant, "students_224").kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            after = ask(client, "revived", part)
            break
        except InferenceServerException:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert same(after, before)


def commit(product, name, content):
    request = {
        "operation": "publish", "method": "l2bt", "session": "s", "file": name, "offset": 0,
        "commit": True,
    }  # fmt: skip
    return [
        bytes_input("product", [product.encode()], [1]),
        bytes_input("request", [json.dumps(request).encode()], [1]),
        bytes_input("content", [content], [1]),
    ]


def test_products_outlive_restarts_kills_and_assembling_anew(
    small_artefacts, trained, part, tmp_path
):
    """The last time with room for the students of one product at a time."""
    repository = tmp_path / "repository"
    options = ServingOptions(precision="fp32")
    needed = len(trained(1)["students.onnx"]) + 4 * 6 * 256 * 384
    assemble(small_artefacts, repository, options)
    with EmbeddedTriton(repository) as server, triton.InferenceServerClient(server.grpc_url) as own:
        publish(own, "a", trained(1))
        publish(own, "a", trained(2))
        publish(own, "b", trained(3, (4, 12)))
        before = {name: ask(own, name, part) for name in ("a", "a@1", "b")}
        assert listed(own, "a")[0]["loaded_bytes"] == needed
        killed_while_publishing(server, own, "c", trained(4))
    for again in range(2):
        if again:
            small = ServingOptions(precision="fp32", max_bank_bytes=needed)
            assemble(small_artefacts, repository, small)
        with (
            EmbeddedTriton(repository) as server,
            triton.InferenceServerClient(server.grpc_url) as own,
        ):
            for name in (*before, *reversed(before), *before):
                assert same(ask(own, name, part), before[name])
            # Every product goes on, also the one that may or may not be there.
            assert publish(own, "a", trained(5))[0] == 3 + again
            assert publish(own, "b", trained(4, (4, 12)), activate=False)[0] == 2 + again
            publish(own, "c", trained(5))
            assert manage(own, "a@2", "activate", method="l2bt")[0] == 2
            assert same(ask(own, "a", part), before["a"])
            assert ask(own, "c", part)["anomaly_score"] > 0


def killed_while_publishing(server, client, product, files):
    """Ask for a publication, and kill the server with all its processes in the middle of it."""
    done = threading.Event()
    for name, content in list(files.items())[:-1]:
        manage(client, product, "publish", content, method="l2bt", session="s", file=name, offset=0)
    inputs = commit(product, *list(files.items())[-1])
    client.async_infer("manage", inputs, lambda result, error: done.set())
    time.sleep(0.05)
    os.killpg(server.process_id, signal.SIGKILL)
    assert done.wait(10)
