from __future__ import annotations

import json

import numpy as np
import pytest
from masks import box, tokens_of
from reference import anomaly_dino_reference as reference

from masking_test import masking_test


def test_whole_objects_pass():
    one = box((32, 32), (8, 24), (8, 24))
    result = masking_test(tokens_of(one), (32, 32))
    assert result.passed
    assert result.reason == "The mask sets one or more whole objects off."
    assert result.foreground_share == 18 * 18 / 1024
    assert result.centre_share == 16 * 16 / 19**2
    assert (result.border_share, result.hole_share, result.stability) == (0.0, 0.0, 1.0)
    cross = box((32, 32), (13, 18), (0, 32)) | box((32, 32), (0, 32), (13, 18))
    four = box((32, 32), (7, 25), (7, 25)) & ~cross
    assert masking_test(tokens_of(four), (32, 32)).passed


def refusal(mask, height=60.0):
    result = masking_test(tokens_of(mask, height), mask.shape)
    limits = {
        "centre": result.centre_share > 0.35,
        "border": result.border_share <= 0.25,
        "enclosed": result.hole_share <= 0.01,
        "hardly": result.foreground_share <= 0.8,
        "flow into": result.stability >= 0.8,
    }
    assert result.passed == all(limits.values())
    failed = [word for word, holds in limits.items() if not holds]
    if failed:
        assert failed[0] in result.reason
    return failed


def test_an_empty_centre_fails():
    assert refusal(np.zeros((32, 32), dtype=bool)) == ["centre", "flow into"]


def test_a_centre_of_exactly_35_percent_fails():
    mask = box((17, 13), (5, 12), (4, 8))  # 28 of the 80 patches in the centre
    assert masking_test(tokens_of(mask, -60.0), (17, 13)).centre_share == 0.35
    assert refusal(mask, -60.0) == ["centre"]
    mask[5, 8] = True
    assert refusal(mask, -60.0) == []


def test_an_object_that_does_not_end_inside_the_image_fails():
    assert refusal(box((32, 32), (0, 32), (8, 24))) == ["border"]
    assert refusal(box((32, 32), (8, 24), (0, 32))) == ["border"]
    # Twelve of the 48 patches of the ring are still allowed.
    touching = box((10, 16), (0, 7), (3, 13))
    assert masking_test(tokens_of(touching), (10, 16)).border_share == 0.25
    assert refusal(touching) == []
    touching[0, 2] = True  # reaches the corner, as what ends next to the border does
    assert refusal(touching) == ["border"]


def with_hole(height, width):
    return box((30, 30), (5, 25), (5, 25)) & ~box((30, 30), (12, 12 + height), (12, 12 + width))


def test_an_object_with_a_hole_fails():
    # The hole shrinks by a patch on each side: 9 of 900 patches are allowed, 12 are not.
    assert masking_test(tokens_of(with_hole(5, 5)), (30, 30)).hole_share == 0.01
    assert refusal(with_hole(5, 5)) == []
    assert refusal(with_hole(5, 6)) == ["enclosed"]


def test_a_hole_leads_out_by_a_side_and_not_by_a_corner():
    mask = with_hole(6, 6)
    beside = mask & ~box((30, 30), (0, 17), (13, 18))
    assert refusal(beside) == []
    for turns in range(4):  # each side of the image, the other three closed off by the object
        bay = box((30, 30), (0, 25), (5, 25)) & ~box((30, 30), (0, 17), (13, 18))
        assert refusal(np.rot90(bay, turns)) == []
    by_the_corner = mask & ~box((30, 30), (0, 14), (16, 21))
    assert refusal(by_the_corner) == ["enclosed"]


def test_a_mask_with_nothing_to_hide_fails():
    assert refusal(box((40, 40), (3, 37), (3, 37)), 100.0) == ["hardly"]
    assert refusal(box((40, 40), (3, 37), (3, 36)), 100.0) == []
    # The first of two reasons is told.
    assert refusal(box((32, 32), (2, 30), (2, 30)), 100.0) == ["border", "hardly"]


def test_summary_is_json_by_name():
    summary = masking_test(tokens_of(with_hole(8, 8)), (30, 30)).to_dict()
    assert json.loads(json.dumps(summary)) == {
        "passed": False,
        "reason": "Background enclosed by foreground is 4.0% of the image, and may be 1% at most: "
        "part of the object may be taken for background.",
        "foreground_share": (22 * 22 - 36) / 900,
        "centre_share": summary["centre_share"],
        "border_share": 0.0,
        "hole_share": 0.04,
        "stability": 1.0,
    }


# ----- a mask that hangs on its threshold ---------------------------------------------------------


def gradual(shoulder):
    """An object of 18 x 18 patches; right of it `shoulder` columns of 10.5 on the component."""
    inside, beside = box((32, 32), (7, 25), (3, 21)), box((32, 32), (7, 25), (21, 21 + shoulder))
    heights = np.zeros((32, 32), np.float32)
    heights[inside] = 60.0
    # What lies 10.5 above a mean to which it belongs.
    heights[beside] = (10.5 + heights.mean()) / (1.0 - beside.mean())
    return np.stack([heights, np.zeros_like(heights)], axis=-1).reshape(-1, 2)


def test_a_mask_that_hangs_on_its_threshold_fails():
    sharp = masking_test(gradual(0), (32, 32))
    assert (sharp.passed, sharp.stability) == (True, 1.0)
    # Enlarged, the object has 20 x 20 patches, and each column that only the low mask has 20.
    narrow = masking_test(gradual(5), (32, 32))
    assert (narrow.passed, narrow.stability) == (True, 400 / 500)
    wide = masking_test(gradual(6), (32, 32))
    assert (wide.passed, wide.stability) == (False, 400 / 520)
    assert wide.reason == (
        "The masks at thresholds 5 and 15 share 76.9% of what either covers, and must share 80%: "
        "object and background flow into each other."
    )


def test_stability_is_the_same_whatever_the_sign():
    found = [masking_test(weight * gradual(4), (32, 32)).stability for weight in (1, -1)]
    assert found == [400 / 480] * 2


def test_the_end_that_is_no_object_has_no_say():
    """At 5, but not at 10, the background would do for an object too."""
    small = tokens_of(box((32, 32), (10, 22), (10, 21)), -60.0)  # the rest lies at 7.7
    assert masking_test(small, (32, 32)).stability == 1.0
    assert refusal(box((32, 32), (10, 22), (10, 21)), -60.0) == []


# ----- real images --------------------------------------------------------------------------------


def test_a_cell_fills_its_image(torch_backbone, cells):
    import torch

    for cell in (cells[0], cells[len(cells) // 3]):
        pixels = torch.from_numpy(reference.pixels(cell.path).copy())[None]
        with torch.inference_mode():
            tokens = torch_backbone(pixels)[0][0].numpy()
        assert not masking_test(tokens, (32, 32)).passed


def test_tokens_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        masking_test(np.full((64, 4), np.nan, np.float32), (8, 8))
