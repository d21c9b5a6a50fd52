"""Scoring without references on the real server, held to the slow reference (Section D)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.slow_product import assert_answers, expected_answer, expected_foreground
from integration.triton_calls import PLAIN, enroll, inspect, listed, same, zero_shot
from reference import anomaly_dino_reference as reference
from tritonclient.utils import InferenceServerException

SCORED = ("report", "anomaly_score", "patch_distances", "anomaly_map")


@pytest.fixture(scope="module")
def client(served_fp32):
    with triton.InferenceServerClient(served_fp32.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def sizes(served_sizes):
    with triton.InferenceServerClient(served_sizes.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def cells_to_score(split):
    """Six cells, of which two are defective."""
    return [*split.functional[:4], *split.defective[:2]]


@pytest.fixture(scope="module")
def cookies_to_score(cookies):
    return [
        *(cookies / "test" / "good" / f"test-normal-{number}.jpg" for number in (1, 2, 3, 4)),
        *(cookies / "test" / "cracked" / f"anomaly-{number}.jpg" for number in (1, 2)),
    ]


def contents(paths):
    return [path.read_bytes() for path in paths]


def hold(client, tokens_of, paths, *, resolution, masks, alpha=0.001, statistic="max",
         image_score="mean_top1p", **options):  # fmt: skip
    """Stage images in two parts, and compare each one's answer with the reference's."""
    session = {"session": f"{resolution}-{masks}-{statistic}"} | options
    chosen = {
        "resolution": resolution, "alpha": alpha, "statistic": statistic,
        "image_score": image_score,
    }  # fmt: skip
    zero_shot(client, contents(paths[:4]), num_staged=0, **session, **chosen)
    staged = zero_shot(client, contents(paths[4:]), num_staged=4, **session)["report"]
    assert (staged["num_staged"], staged["masked"]) == (len(paths), masks)
    pixels = [reference.pixels(path, resolution) for path in paths]
    grid = (pixels[0].shape[0] // 14, pixels[0].shape[1] // 14)
    tokens = [tokens_of(one) for one in pixels]
    flat = reference.batched_zero_shot(tokens, alpha, statistic)
    for index, path in enumerate(paths):
        answer = zero_shot(
            client, outputs=SCORED, session=session["session"], score=index,
            close=index == len(paths) - 1,
        )  # fmt: skip
        height, width = reference.decoded(path).shape[:2]
        foreground = expected_foreground(tokens[index], grid) if masks else np.ones(grid, bool)
        expected = expected_answer(
            flat[index].reshape(grid), foreground, image_score, height, width
        )
        assert expected.distances.max() > 0.02
        assert_answers(answer, expected)
        report = answer["report"]
        assert (report["index"], report["num_images"]) == (index, len(paths))
        assert report["num_bank_patches"] == (len(paths) - 1) * grid[0] * grid[1]
        assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    return staged


@pytest.mark.parametrize(("statistic", "alpha"), [("max", 0.001), ("mean", 0.004)])
def test_cells_equal_the_reference(client, torch_tokens, cells_to_score, statistic, alpha):
    """32 x 32 patches of each against 5,120 of the others, of which 5 and 20 count."""
    staged = hold(
        client, torch_tokens, cells_to_score, resolution=448, masks=False, statistic=statistic,
        alpha=alpha,
    )  # fmt: skip
    assert not staged["masking_test"]["passed"]


@pytest.mark.parametrize(
    ("statistic", "alpha", "image_score"),
    [("max", 0.001, "mean_top1p"), ("mean", 0.01, "mean_top1p_foreground"), ("max", 0.1, "max")],
)
def test_masked_cookies_equal_the_reference(
    sizes, torch_tokens, cookies_to_score, statistic, alpha, image_score
):
    """21 x 16 patches; the background scores nothing, and yet is what others are compared with."""
    staged = hold(
        sizes, torch_tokens, cookies_to_score, resolution=224, masks=True, statistic=statistic,
        alpha=alpha, image_score=image_score,
    )  # fmt: skip
    assert staged["masking_test"]["passed"]


def test_masked_cookies_at_448_equal_the_reference(sizes, torch_tokens, cookies_to_score):
    hold(sizes, torch_tokens, cookies_to_score, resolution=448, masks=True)


@pytest.mark.parametrize(("masking", "masks"), [("always", True), ("never", False)])
def test_masking_can_be_told(sizes, torch_tokens, cookies_to_score, masking, masks):
    """Against what the test would say, where it says something."""
    staged = hold(
        sizes, torch_tokens, cookies_to_score, resolution=224, masks=masks, masking=masking,
        image_score="max_map",
    )  # fmt: skip
    assert staged["masking_test"] is None


@pytest.fixture(scope="module")
def few(split):
    return contents(split.functional[:3])


def test_score_depends_on_no_order_of_asking(client, few):
    zero_shot(client, few, session="order", num_staged=0)
    first = [zero_shot(client, outputs=SCORED, session="order", score=i) for i in (0, 1, 2)]
    again = [zero_shot(client, outputs=SCORED, session="order", score=i) for i in (2, 1, 0)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.pop("report") == other.pop("report")
        assert same(one, other)
    zero_shot(client, session="order", close=True)


def test_image_added_later_counts_for_all(client, few):
    """What an image is compared with grows with the batch."""
    zero_shot(client, few[:2], session="grows", num_staged=0)
    before = zero_shot(client, outputs=SCORED, session="grows", score=0)
    zero_shot(client, few[2:], session="grows", num_staged=2)
    after = zero_shot(client, outputs=SCORED, session="grows", score=0, close=True)
    assert before["report"]["num_bank_patches"] == 1024
    assert after["report"]["num_bank_patches"] == 2048
    assert not np.array_equal(before["patch_distances"], after["patch_distances"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"session": "open", "score": 3}, "no image 3; the batch has 3"),
        ({"session": "never"}, "needs at least one image"),
        ({"session": "never", "score": 0}, "no open session 'never'"),
        ({"session": "open", "score": 0, "alpha": 0.5}, "first part of the batch said"),
        ({"session": "open", "score": 0, "statistic": "mean"}, "first part of the batch said"),
        ({"score": 0}, "session"),
        ({"session": "open", "score": -1}, "score"),
        ({"session": "open", "scores": 0}, "unknown options"),
    ],
)
def test_request_that_fits_no_session_is_refused(client, few, options, reason):
    """And the session it names goes on."""
    zero_shot(client, session="open", close=True)
    zero_shot(client, few, session="open", num_staged=0)
    with pytest.raises(InferenceServerException, match=reason) as caught:
        zero_shot(client, **options)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert zero_shot(client, session="open", score=2)["report"]["num_images"] == 3


def test_part_that_does_not_follow_is_refused(client, few):
    zero_shot(client, few[:1], session="parts", num_staged=0)
    for num_staged in (0, 2, None):
        with pytest.raises(InferenceServerException, match="holds 1 images"):
            zero_shot(client, few[1:], session="parts", num_staged=num_staged)
    with pytest.raises(InferenceServerException, match="nothing to compare it with"):
        zero_shot(client, session="parts", score=0)
    with pytest.raises(InferenceServerException, match="the same file as #1"):
        zero_shot(client, few[:1], session="parts", num_staged=1)
    with pytest.raises(InferenceServerException, match="image #3: "):
        zero_shot(client, [few[1], b"x"], session="parts", num_staged=1)
    with pytest.raises(InferenceServerException, match="not both"):
        zero_shot(client, few[1:], session="parts", score=0)
    with pytest.raises(InferenceServerException, match="1 image_names for 2 images"):
        zero_shot(client, few[1:], session="parts", num_staged=1, image_names=["a"])
    report = zero_shot(client, few[1:], session="parts", num_staged=1, image_names=["a", "b"])[
        "report"
    ]
    assert report["num_staged"] == 3
    assert zero_shot(client, session="parts", score=2)["report"]["name"] == "b"


def test_closed_session_is_gone(client, few):
    zero_shot(client, few, session="closed", num_staged=0)
    assert zero_shot(client, session="closed", score=0, close=True)["report"]["index"] == 0
    with pytest.raises(InferenceServerException, match="no open session 'closed'"):
        zero_shot(client, session="closed", score=1)
    assert zero_shot(client, few[:1], session="closed", num_staged=0)["report"]["num_staged"] == 1
    zero_shot(client, session="closed", close=True)
    zero_shot(client, session="closed", close=True)  # closing once more is no error
    with pytest.raises(InferenceServerException, match="holds 0 images"):
        zero_shot(client, few[1:], session="closed", num_staged=1)


def test_too_many_sessions_are_refused_and_closing_one_makes_room(client, few):
    names = [f"many-{number}" for number in range(9)]
    for name in ("open", "parts", *names):
        zero_shot(client, session=name, close=True)
    for name in names[:8]:
        zero_shot(client, few[:1], session=name, num_staged=0)
    with pytest.raises(InferenceServerException, match="8 zero-shot batches are open"):
        zero_shot(client, few[:1], session=names[8], num_staged=0)
    zero_shot(client, session=names[0], close=True)
    zero_shot(client, few[:1], session=names[8], num_staged=0)
    for name in names:
        zero_shot(client, session=name, close=True)


def test_batch_is_no_product_and_leaves_the_products_alone(served_fp32, client, few):
    enroll(client, "beside", few[:1], **PLAIN)
    before = inspect(client, "beside", few[1])
    banks = served_fp32.repository / "banks"
    names = {path.name for path in banks.iterdir()}
    products = listed(client)
    zero_shot(client, few, session="beside", num_staged=0)
    zero_shot(client, session="beside", score=0)
    assert listed(client) == products
    assert same(inspect(client, "beside", few[1]), before)
    zero_shot(client, session="beside", close=True)
    assert {path.name for path in banks.iterdir()} == names
