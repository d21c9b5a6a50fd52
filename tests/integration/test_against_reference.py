"""Every way to score, on the real server in FP32, held to the slow reference.

The reference decodes, turns, resizes, masks and scores by itself, with the tokens of the PyTorch
backbone. Its turned images equal the served ones pixel by pixel (tests/unit/models/
test_anomaly_dino_reference.py), so the tolerances hold for rotated references, too.
"""

from __future__ import annotations

import pytest
import torch
import tritonclient.grpc as triton
from integration.builds import describe
from integration.slow_product import SlowProduct, TorchTokens, assert_answers, first_of
from integration.triton_calls import enroll, inspect
from reference import anomaly_dino_reference as reference
from unit.export.random_networks import random_network

from dinspect_server.assemble import ServingOptions, assemble
from dinspect_server.embedded import EmbeddedTriton

SETTINGS = [
    # preprocessing, what is said of the parts, neighbours, image score
    ("agnostic", {}, 1, "mean_top1p"),
    ("agnostic", {}, 3, "mean_top1p_foreground"),
    ("agnostic", {"texture": True}, 3, "max"),
    ("informed", {}, 3, "max_map"),
    ("informed", {"rotated": True}, 1, "mean_top1p_foreground"),
    ("masking_only", {}, 1, "max"),
    ("masking_only", {"texture": True}, 1, "mean_top1p"),
    ("no_mask_no_rotation", {}, 1, "max_map"),
    ("no_mask_rotation", {}, 3, "mean_top1p"),
    ("mask_no_rotation", {}, 3, "mean_top1p_foreground"),
    ("mask_rotation", {}, 1, "max_map"),
]
"""All settings, on a masked and an unmasked product; 1 and 3 neighbours and each score on both."""


def named(value):
    return "-".join(map(str, value)) if isinstance(value, dict) else str(value)


@pytest.fixture(scope="module")
def square(served_fp32):
    with triton.InferenceServerClient(served_fp32.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def sizes(served_sizes):
    with triton.InferenceServerClient(served_sizes.grpc_url) as client:
        yield client


def hold(client, tokens_of, references, parts, *, resolution, passes, setting, said, k, score):
    """Enrol on the server and in the reference, and compare the answers for each part."""
    angles_deg, masks = reference.preprocessing(setting, test_passed=passes, **said)
    _, _, report = enroll(
        client, f"slow-{setting}", [path.read_bytes() for path in references],
        resolution=resolution, preprocessing=setting, num_neighbours=k, image_score=score, **said,
    )  # fmt: skip
    assert report["preprocessing"]["masked"] == masks
    assert report["preprocessing"]["rotations_deg"] == list(angles_deg)
    slow = SlowProduct(
        tokens_of, references, resolution=resolution, angles_deg=angles_deg, masks=masks,
        num_neighbours=k, image_score=score,
    )  # fmt: skip
    assert report["num_patches"] == len(slow.bank)
    shares = []
    for path in parts:
        answer = inspect(client, f"slow-{setting}", path.read_bytes(), model=report["ensemble"])
        expected = slow.inspect(path)
        assert_answers(first_of(answer), expected)
        shares.append(expected.foreground.mean())
    assert all(share < 1 for share in shares) == masks
    return report


def some_cookies(folder):
    """Two good ones to enrol, a good and a cracked one to inspect."""
    return (
        [folder / "train" / "good" / f"normal-{number}.jpg" for number in (1, 2)],
        [
            folder / "test" / "good" / "test-normal-1.jpg",
            folder / "test" / "cracked" / "anomaly-1.jpg",
        ],
    )


@pytest.mark.parametrize(("setting", "said", "k", "score"), SETTINGS, ids=named)
def test_masked_product_equals_the_reference(sizes, torch_tokens, cookies, setting, said, k, score):
    """Cookies pass the masking test; upright, 21 x 16 patches of a cropped image."""
    references, parts = some_cookies(cookies)
    report = hold(
        sizes, torch_tokens, references, parts, resolution=224, passes=True, setting=setting,
        said=said, k=k, score=score,
    )  # fmt: skip
    assert report["grid"] == [21, 16]


@pytest.mark.parametrize(("setting", "said", "k", "score"), SETTINGS, ids=named)
def test_unmasked_product_equals_the_reference(sizes, torch_tokens, split, setting, said, k, score):
    """A solar cell fills its image and fails the masking test; Table 9b masks it all the same."""
    hold(
        sizes, torch_tokens, split.enrolled[:2], [split.functional[0], split.defective[0]],
        resolution=224, passes=False, setting=setting, said=said, k=k, score=score,
    )  # fmt: skip


@pytest.mark.parametrize(("k", "score"), [(1, "mean_top1p"), (3, "max_map")])
def test_masked_product_at_448_equals_the_reference(sizes, torch_tokens, cookies, k, score):
    """42 x 32 patches, eight rotations of one reference."""
    references, parts = some_cookies(cookies)
    report = hold(
        sizes, torch_tokens, references[:1], parts, resolution=448, passes=True,
        setting="agnostic", said={}, k=k, score=score,
    )  # fmt: skip
    assert report["grid"] == [42, 32]
    assert report["num_patches"] == 8 * 42 * 32
    assert report["preprocessing"]["masking_test"]["passed"]


@pytest.mark.parametrize(("k", "score"), [(1, "mean_top1p"), (3, "max")])
def test_unmasked_product_at_448_equals_the_reference(square, torch_tokens, split, k, score):
    """32 x 32 patches, eight rotations of two references; two parts with and one without defect."""
    report = hold(
        square, torch_tokens, split.enrolled[:2], [split.functional[0], *split.defective[:2]],
        resolution=448, passes=False, setting="agnostic", said={}, k=k, score=score,
    )  # fmt: skip
    assert not report["preprocessing"]["masking_test"]["passed"]


@pytest.mark.parametrize("resolution", [224, 672, 896])
def test_resolutions_of_table_9c_equal_the_reference(sizes, torch_tokens, split, resolution):
    hold(
        sizes, torch_tokens, split.enrolled[:1], split.defective[:1], resolution=resolution,
        passes=False, setting="mask_no_rotation", said={}, k=1, score="mean_top1p",
    )  # fmt: skip


def test_larger_backbone_equals_the_reference(split, tmp_path):
    """ViT-B/14 with random weights; L and g differ in nothing but their size and take minutes."""
    from dinspect_export.build import build
    from dinspect_export.description import read_description
    from dinspect_export.variants import variant_by_name

    network = random_network(variant_by_name("dinov2_vitb14"))
    torch.save(dict(network.state_dict()), tmp_path / "random.pth")
    path = describe(tmp_path, split, [224], "dinov2_vitb14", "random.pth")
    (outcome,) = build(read_description(path))
    repository = tmp_path / "repository"
    assemble(path.parent / "build" / "artefacts", repository, ServingOptions(precision="fp32"))
    with EmbeddedTriton(repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        report = hold(
            client, TorchTokens(network, 12), split.enrolled[:2], split.defective[:2],
            resolution=224, passes=False, setting="no_mask_rotation", said={}, k=3,
            score="mean_top1p",
        )  # fmt: skip
        client.close()
    assert (report["backbone"]["name"], report["dim"]) == ("dinov2_vitb14", 768)
    assert report["backbone"]["onnx_sha256"] == outcome.manifest.onnx_sha256
