"""The main job on the real server: enrol, inspect, refuse, by the wire contract."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
import tritonclient.http
from integration.triton_calls import bytes_input, enroll, inspect
from PIL import Image
from reference import anomaly_dino_reference as reference
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
    enroll(client, "cell", references)
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
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "score", "threshold", "verdict", "bundle", "patch", "anomaly",
    ]  # fmt: skip
    assert lines[-2:] == ["patch distances (32, 32)", "anomaly map (300, 300)"]


def test_example_uses_only_tritonclient_and_numpy():
    from contract.test_imports import imported

    assert {name.split(".")[0] for name in imported(EXAMPLE)} == {"sys", "numpy", "tritonclient"}


def test_outputs_keep_types_and_shapes_over_both_protocols(served, client, product, part):
    over_grpc = inspect(client, product, part)
    http = tritonclient.http.InferenceServerClient(served.http_url)
    over_http = inspect(http, product, part, module=tritonclient.http)
    http.close()
    dtypes = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
    shapes = {"patch_distances": (1, 32, 32), "anomaly_map": (1, 300, 300)}
    assert set(over_grpc) == {spec.name for spec in wire.INSPECTION_OUTPUTS}
    for spec in wire.INSPECTION_OUTPUTS:
        found = over_grpc[spec.name]
        assert found.dtype == dtypes[spec.datatype]
        assert found.shape == shapes.get(spec.name, (1, 1))
        assert np.array_equal(found, over_http[spec.name])


def test_fp32_server_equals_the_slow_reference(served_fp32, torch_backbone, split):
    """Scores to 1e-3 relative, distances to 1e-4, maps to 1e-3, from the PyTorch backbone."""
    references, parts = (
        split.enrolled[:4],
        [split.functional[0], split.defective[0], split.defective[1]],
    )
    with triton.InferenceServerClient(served_fp32.grpc_url) as client:
        enroll(client, "cell", [path.read_bytes() for path in references])
        answers = [inspect(client, "cell", path.read_bytes()) for path in parts]

    def tokens(path):
        with torch.inference_mode():
            return torch_backbone(torch.from_numpy(reference.pixels(path).copy())[None])[0][
                0
            ].numpy()

    bank = np.concatenate([tokens(path) for path in references])
    for path, answer in zip(parts, answers, strict=True):
        distances = reference.patch_distances(tokens(path), bank).reshape(32, 32)
        np.testing.assert_allclose(answer["patch_distances"][0], distances, atol=1e-4)
        score = reference.image_score(distances)
        assert answer["anomaly_score"][0, 0] == pytest.approx(score, rel=1e-3)
        np.testing.assert_allclose(
            answer["anomaly_map"][0], reference.anomaly_map(distances, 300, 300), atol=1e-3
        )


def test_enrolled_image_is_normal_and_nearly_without_distance(client, product, references):
    answer = inspect(client, product, references[0])
    assert answer["patch_distances"].max() < 2e-3
    assert answer["verdict"][0, 0] == wire.Verdict.NORMAL


def test_verdict_follows_score_and_threshold(client, references, part):
    _, low, _ = enroll(client, "strict", references, threshold=0.001)
    _, high, _ = enroll(client, "lenient", references, threshold=1.9)
    assert (low, high) == (pytest.approx(0.001), pytest.approx(1.9))
    assert inspect(client, "strict", part)["verdict"][0, 0] == wire.Verdict.ANOMALOUS
    assert inspect(client, "lenient", part)["verdict"][0, 0] == wire.Verdict.NORMAL


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
    assert count() == before
    inspect(client, product, part)
    assert count() == before + 1


def test_batch_answers_each_image_as_if_alone(client, product, references, split):
    enroll(client, "other", references[:1])
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
    _, _, report = enroll(client, "wide", references)
    assert (report["ensemble"], report["grid"]) == ("anomaly_dino_448x588", [32, 42])
    answer = inspect(client, "wide", references[0], model="anomaly_dino_448x588")
    assert answer["patch_distances"].shape == (1, 32, 42)
    assert answer["anomaly_map"].shape == (1, 300, 400)
    assert answer["patch_distances"].max() < 2e-3
    with pytest.raises(InferenceServerException, match="was enrolled for anomaly_dino_448x588"):
        inspect(client, "wide", jpeg(split.enrolled[0]))


def test_products_of_one_batch_do_not_mix(client, references, part):
    """Each item has its own bank, threshold, verdict and version, in either order."""
    enroll(client, "mixed-a", references[:1], threshold=0.001)
    enroll(client, "mixed-b", references, threshold=1.8)
    enroll(client, "mixed-b", references, threshold=1.9)
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


def test_internal_fault_tells_its_kind_and_no_details(served, client, references, part):
    """A record that was changed by hand: the grid no longer fits the bank's search."""
    enroll(client, "tampered", references[:1])
    path = served.repository / "banks" / "tampered" / "1" / "bundle.json"
    path.write_text(
        path.read_text().replace('"grid": [\n    32,\n    32', '"grid": [\n    31,\n    31')
    )
    with pytest.raises(InferenceServerException, match="internal fault") as caught:
        inspect(client, "tampered", part)
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert caught.value.message().endswith("the server's log has the details")
