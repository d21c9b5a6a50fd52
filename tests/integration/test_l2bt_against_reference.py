"""L2BT on the real server in FP32, held to the slow reference with the tokens of PyTorch.

The reference pads, computes distances and draws the map by itself; random students stand for
trained ones, whose weights would say no more.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from integration.random_students import RandomStudents, publish, training_files
from integration.slow_product import DISTANCE_TOLERANCE, MAP_TOLERANCE
from integration.triton_calls import inspect
from PIL import Image
from reference import l2bt_reference as reference

from dinspect_client import wire
from dinspect_export.backbone import ExportableBackbone

GRID = (32, 32)
LAYERS = (8, 12)
CASES = [
    # normalisation, metric, combination, smoothing, sigma, part of the cell in pixels
    ("l2", "euclidean", "product", "gaussian", 4.69, (300, 300)),
    ("l2", "euclidean", "product", "boxes", 4.0, (181, 300)),
    ("none", "euclidean", "sum", "boxes", 4.0, (300, 160)),
    ("l2", "cosine", "forward", "gaussian", 2.0, (300, 221)),
    ("none", "euclidean", "backward", "gaussian", 8.0, (200, 300)),
]


@pytest.fixture(scope="module")
def client(served_fp32):
    with triton.InferenceServerClient(served_fp32.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="module")
def backbone_sha256(artefacts_dir):
    from dinspect_export.manifest import read_backbones

    (found,) = [
        one for one in read_backbones(artefacts_dir, "fp32") if one.manifest.grid == [32, 32]
    ]
    return found.manifest.onnx_sha256


@pytest.fixture(scope="module")
def tokens_of(torch_network):
    """Patch tokens by block of images, each padded to a square as the paper's code does."""
    backbone = ExportableBackbone(torch_network, GRID, list(LAYERS)).eval()

    def compute(*images):
        pixels = np.stack([padded(image) for image in images])
        with torch.inference_mode():
            blocks = backbone(torch.from_numpy(pixels))
        return dict(zip(LAYERS, (block.numpy() for block in blocks), strict=True))

    return compute


def padded(image):
    """`SquarePad`: the smaller half of the padding above and left, by the image's own border."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    rows = np.clip(np.arange(side) - top, 0, height - 1)
    columns = np.clip(np.arange(side) - left, 0, width - 1)
    square = Image.fromarray(image[rows][:, columns])
    return np.asarray(square.resize((448, 448), Image.Resampling.BICUBIC))


def cropped(path, size):
    """The upper left part of an image."""
    return np.asarray(Image.open(path).convert("RGB"))[: size[0], : size[1]]


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers_equal_the_reference(client, backbone_sha256, tokens_of, split, tmp_path, case):
    normalisation, metric, combination, smoothing, sigma, size = case
    students = RandomStudents(
        7, GRID, LAYERS, normalisation=normalisation, metric=metric, combination=combination
    )
    good = [cropped(path, size) for path in split.enrolled[:2]]
    good_tokens = tokens_of(*good)
    files = training_files(
        students, tmp_path, backbone_sha256, good_tokens, size,
        smoothing=smoothing, sigma_px=sigma,
    )  # fmt: skip
    product = f"slow-{CASES.index(case)}"
    _, report = publish(client, product, files)

    part = cropped(split.defective[0], size)
    answer = inspect(client, product, png(part), model=report["ensemble"])
    tokens = tokens_of(part)
    expected = reference.patch_distances(
        tokens[8][0], tokens[12][0], *students.weights(), normalisation, metric, combination, GRID
    )
    unit = max(1.0, float(expected.max()))  # what is not normalised is as large as the tokens
    np.testing.assert_allclose(
        answer["patch_distances"][0], expected, rtol=0, atol=DISTANCE_TOLERANCE * unit
    )
    map_ = reference.anomaly_map(expected, size, smoothing, sigma)
    assert answer["anomaly_map"].shape == (1, *size)
    np.testing.assert_allclose(answer["anomaly_map"][0], map_, rtol=0, atol=MAP_TOLERANCE * unit)
    score = reference.map_score(map_)
    assert answer["anomaly_score"].item() == pytest.approx(score, abs=DISTANCE_TOLERANCE * unit)

    # Of two good parts every quantile that is rounded up is the larger one's.
    good_distances = students.distances(good_tokens)
    maps = [reference.anomaly_map(one, size, smoothing, sigma) for one in good_distances]
    assert report["threshold"] == pytest.approx(max(map(reference.map_score, maps)), rel=1e-5)
    assert report["defect_threshold"] == pytest.approx(max(one.max() for one in maps), rel=1e-5)
    anomalous = answer["anomaly_score"].item() > report["threshold"]
    assert answer["verdict"].item() == (
        wire.Verdict.ANOMALOUS if anomalous else wire.Verdict.NORMAL
    )


def test_cookies_held_upright_equal_the_reference(
    client, backbone_sha256, tokens_of, cookies, tmp_path
):
    """Photographs of 576 x 768 px, as a camera's JPEG."""
    students = RandomStudents(8, GRID)
    good, part = (
        cookies / "train" / "good" / "normal-1.jpg", cookies / "test" / "cracked" / "anomaly-1.jpg",
    )  # fmt: skip
    image = np.asarray(Image.open(good).convert("RGB"))
    files = training_files(
        students, tmp_path, backbone_sha256, tokens_of(image), image.shape[:2], smoothing="boxes"
    )
    _, report = publish(client, "cookie", files)
    answer = inspect(client, "cookie", part.read_bytes(), model=report["ensemble"])
    decoded = np.asarray(Image.open(part).convert("RGB"))
    tokens = tokens_of(decoded)
    expected = reference.patch_distances(
        tokens[8][0], tokens[12][0], *students.weights(), "l2", "euclidean", "product", GRID
    )
    np.testing.assert_allclose(
        answer["patch_distances"][0], expected, rtol=0, atol=DISTANCE_TOLERANCE
    )
    map_ = reference.anomaly_map(expected, decoded.shape[:2], "boxes")
    np.testing.assert_allclose(answer["anomaly_map"][0], map_, rtol=0, atol=MAP_TOLERANCE)
