"""The main job on the real server: enrol, inspect, refuse, by the wire contract."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from integration.triton_calls import PLAIN, bytes_input, enroll, inspect
from PIL import Image
from scipy import ndimage
from tritonclient.utils import InferenceServerException

from dinspect_client import wire

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "plain_tritonclient.py"


def jpeg(path, size=None):
    buffer = io.BytesIO()
    with Image.open(path) as image:
        (image.resize(size) if size else image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def references(split):
    return [path.read_bytes() for path in split.enrolled[:4]]


@pytest.fixture(scope="module")
def part(split):
    return split.defective[0].read_bytes()


@pytest.fixture(scope="module")
def product(client, references):
    enroll(client, "cell", references, **PLAIN)
    return "cell"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_plain_client_gets_every_output_for_a_jpeg(served, product, split, tmp_path, protocol):
    path = tmp_path / "cell.jpg"
    path.write_bytes(jpeg(split.defective[0]))
    url = served.grpc_url if protocol == "grpc" else served.http_url
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), protocol, url, "anomaly_dino_448", product, str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()[:5])
    assert list(printed) == ["score", "threshold", "normal below", "verdict", "bundle version"]
    lines = done.stdout.splitlines()[5:]
    assert lines[:2] == ["patch distances (32, 32)", "anomaly map (300, 300)"]
    assert lines[2].startswith("defect regions [")
    assert len(lines) == 3


def test_example_uses_only_tritonclient_and_numpy():
    from contract.test_imports import imported

    assert {name.split(".")[0] for name in imported(EXAMPLE)} == {"sys", "numpy", "tritonclient"}


def test_outputs_keep_types_and_shapes_over_both_protocols(served, client, product, part):
    over_grpc = inspect(client, product, part)
    http = tritonclient.http.InferenceServerClient(served.http_url)
    over_http = inspect(http, product, part, module=tritonclient.http)
    http.close()
    dtypes = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64, "BYTES": object}
    shapes = {"patch_distances": (1, 32, 32), "anomaly_map": (1, 300, 300)}
    assert set(over_grpc) == {spec.name for spec in wire.INSPECTION_OUTPUTS}
    for spec in wire.INSPECTION_OUTPUTS:
        found = over_grpc[spec.name]
        assert found.dtype == dtypes[spec.datatype]
        assert found.shape == shapes.get(spec.name, (1, 1))
        assert np.array_equal(found, over_http[spec.name])


def test_defect_regions_are_those_of_the_map(client, references, split):
    """Recounted from the maps that came with them, above the product's own threshold."""
    _, _, report = enroll(client, "regions", references, false_positive_rate=0.9, **PLAIN)
    total = 0
    for path in split.defective[:4]:
        answer = inspect(client, "regions", path.read_bytes())
        regions = json.loads(answer["defect_regions"][0, 0])
        map_ = answer["anomaly_map"][0]
        labels, count = ndimage.label(map_ > report["defect_threshold"], np.ones((3, 3)))
        assert len(regions) == count
        assert [one["peak"] for one in regions] == sorted([one["peak"] for one in regions])[::-1]
        for one in regions:
            x, y = one["peak_at_px"]
            inside = labels == labels[y, x]
            assert map_[y, x] == map_[inside].max() == np.float32(one["peak"])
            assert one["area_px"] == inside.sum()
            rows, columns = np.nonzero(inside)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert one["box_px"] == [int(side) for side in box]
        total += count
    assert total > 3
    assert json.loads(inspect(client, "regions", references[0])["defect_regions"][0, 0]) == []


def test_enrolled_image_is_normal_and_nearly_without_distance(client, product, references):
    answer = inspect(client, product, references[0])
    assert answer["patch_distances"].max() < 2e-3
    assert answer["verdict"][0, 0] == wire.Verdict.NORMAL


def test_verdict_follows_score_and_threshold(client, references, part):
    by_hand = {
        "strict": (0.001, 0.0005, wire.Verdict.ANOMALOUS),
        "unsure": (1.9, 0.001, wire.Verdict.UNDECIDED),
        "lenient": (1.9, 1.8, wire.Verdict.NORMAL),
    }
    for name, (threshold, normal_below, verdict) in by_hand.items():
        enroll(
            client, name, references[:2], threshold=threshold, normal_below=normal_below, **PLAIN
        )
        answer = inspect(client, name, part)
        assert answer["threshold"][0, 0] == np.float32(threshold)
        assert answer["normal_below"][0, 0] == np.float32(normal_below)
        assert answer["verdict"][0, 0] == verdict


def test_raw_pixels_score_as_the_same_image_encoded(client, product, part):
    pixels = np.asarray(Image.open(io.BytesIO(part)).convert("RGB"))[None]
    image = triton.InferInput("image_rgb", pixels.shape, "UINT8")
    image.set_data_from_numpy(pixels)
    result = client.infer(
        "anomaly_dino_448_raw", [image, bytes_input("product", [product.encode()], [1, 1])]
    )
    encoded = inspect(client, product, part)
    for name, value in encoded.items():
        assert np.array_equal(result.as_numpy(name), value), name


def test_every_subset_of_outputs_can_be_asked_for(client, product, part):
    """Triton prunes the producers of what is not asked; that must never starve what is."""
    everything = inspect(client, product, part)
    for name in everything:
        alone = inspect(client, product, part, outputs=[name])
        assert list(alone) == [name]
        assert np.array_equal(alone[name], everything[name])


def test_map_is_not_computed_when_not_asked(client, product, part):
    def count():
        stats = client.get_inference_statistics("anomaly_map").model_stats[0]
        return stats.inference_count

    before = count()
    inspect(client, product, part, outputs=["anomaly_score", "verdict"])
    inspect(client, product, part)
    deadline = time.monotonic() + 30
    while count() == before:  # Triton counts a step after its answer may have left
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert count() == before + 1


def test_batch_answers_each_image_as_if_alone(client, product, references, split):
    enroll(client, "other", references[:1], **PLAIN)
    images = [path.read_bytes() for path in split.defective[:3]]
    batch = inspect(client, "cell", *images)
    for index, image in enumerate(images):
        alone = inspect(client, "cell", image)
        for name in batch:
            assert np.array_equal(batch[name][index], alone[name][0]), name


def test_images_of_another_scale_are_inspected_and_mapped_at_their_size(client, product, split):
    answer = inspect(client, product, jpeg(split.defective[0], (640, 640)))
    assert answer["anomaly_map"].shape == (1, 640, 640)
    images = [jpeg(split.defective[0], size) for size in ((400, 400), (500, 500))]
    mixed = inspect(client, product, *images, outputs=["anomaly_score"])
    assert mixed["anomaly_score"].shape == (2, 1)
    with pytest.raises(InferenceServerException, match="send them as separate requests"):
        inspect(client, product, *images)


def refused(part):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return {
        "truncated JPEG": (part[: len(part) // 2], "truncated"),
        "empty body": (b"", "empty"),
        "text file": (b"not an image\n" * 50, "no image in a known format"),
        "1x1 image": (buffer.getvalue(), "at least 32 px"),
    }


@pytest.mark.parametrize("case", ["truncated JPEG", "empty body", "text file", "1x1 image"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_bad_image_is_a_clear_error_and_the_next_request_succeeds(
    served, client, product, split, case, protocol
):
    encoded, reason = refused(jpeg(split.defective[0]))[case]
    module = triton if protocol == "grpc" else tritonclient.http
    url = served.grpc_url if protocol == "grpc" else served.http_url
    asking = module.InferenceServerClient(url)
    began = time.monotonic()
    with pytest.raises(InferenceServerException, match=reason):
        inspect(asking, product, encoded, module=module)
    assert time.monotonic() - began < 1.0
    assert inspect(asking, product, split.defective[0].read_bytes(), module=module)
    asking.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bolt", "unknown product 'bolt'; enrolled are: .*cell"),
        ("cell@99", "no version 99"),
        ("../../etc/passwd", "is not a name"),
    ],
)
def test_unknown_product_is_a_clear_error(client, product, part, name, reason):
    with pytest.raises(InferenceServerException, match=reason) as caught:
        inspect(client, name, part)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert inspect(client, product, part)


def test_another_geometry_is_refused(client, product, split):
    with pytest.raises(InferenceServerException, match="448x588"):
        inspect(client, product, jpeg(split.defective[0], (400, 300)))
    with pytest.raises(InferenceServerException, match="one camera geometry"):
        inspect(client, product, jpeg(split.defective[0], (306, 300)))


def test_one_bad_request_does_not_fail_its_batch(served, product, part):
    """Sixteen requests at once, so that Triton batches them; every other one is broken."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(index):
        with triton.InferenceServerClient(served.grpc_url) as client:
            try:
                return inspect(client, product, part if index % 2 else b"broken")
            except InferenceServerException as error:
                return str(error)

    def counts():
        with triton.InferenceServerClient(served.grpc_url) as client:
            stats = client.get_inference_statistics("dinov2_vits14_448").model_stats[0]
        return np.array([stats.execution_count, stats.inference_count])

    before = counts()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    num_executions, num_images = counts() - before
    scores = {float(answer["anomaly_score"][0, 0]) for answer in answers[1::2]}
    assert len(scores) == 1
    assert all("no image in a known format" in answer for answer in answers[0::2])
    assert num_images == 8
    assert num_executions < num_images


def test_non_square_camera_is_served_by_its_own_size(client, split):
    references = [jpeg(path, (400, 300)) for path in split.enrolled[:2]]
    _, _, report = enroll(client, "wide", references, **PLAIN)
    assert (report["ensemble"], report["grid"]) == ("anomaly_dino_448x588", [32, 42])
    answer = inspect(client, "wide", references[0], model="anomaly_dino_448x588")
    assert answer["patch_distances"].shape == (1, 32, 42)
    assert answer["anomaly_map"].shape == (1, 300, 400)
    assert answer["patch_distances"].max() < 2e-3
    with pytest.raises(InferenceServerException, match="was enrolled for anomaly_dino_448x588"):
        inspect(client, "wide", jpeg(split.enrolled[0]))


def test_products_of_one_batch_do_not_mix(client, references, part):
    """Each item has its own bank, threshold, verdict and version, in either order."""
    enroll(client, "mixed-a", references[:1], threshold=0.001, **PLAIN)
    enroll(client, "mixed-b", references, threshold=1.8, **PLAIN)
    enroll(client, "mixed-b", references, threshold=1.9, **PLAIN)
    alone = {name: inspect(client, name, part) for name in ("mixed-a", "mixed-b")}
    for order in (["mixed-a", "mixed-b"], ["mixed-b", "mixed-a"]):
        products = [name.encode() for name in order]
        result = client.infer(
            "anomaly_dino_448",
            [bytes_input("image", [part] * 2, [2, 1]), bytes_input("product", products, [2, 1])],
        )
        for index, name in enumerate(order):
            for output, value in alone[name].items():
                assert np.array_equal(result.as_numpy(output)[index], value[0]), (name, output)
    assert [alone[name]["verdict"][0, 0] for name in alone] == [1, 0]


def test_internal_fault_tells_its_kind_and_no_details(client, product):
    """Tokens of a backbone that broke: whoever calls the model gets no score for them."""
    tokens = triton.InferInput("patch_tokens", [1, 1024, 384], "FP32")
    tokens.set_data_from_numpy(np.full((1, 1024, 384), np.nan, np.float32))
    size = triton.InferInput("image_size", [1, 2], "INT32")
    size.set_data_from_numpy(np.array([[300, 300]], np.int32))
    with pytest.raises(InferenceServerException, match="internal fault") as caught:
        client.infer(
            "cosine_knn_448", [tokens, bytes_input("product", [product.encode()], [1, 1]), size]
        )
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert caught.value.message().endswith("the server's log has the details")
