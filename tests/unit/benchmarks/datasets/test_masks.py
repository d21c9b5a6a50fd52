"""Masks of the ground truth, in the pixel formats data sets have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_trees import write_image, write_mask

from dinspect_bench.datasets.masks import read_mask
from dinspect_bench.errors import DatasetError


@pytest.mark.parametrize("value", [1, 3, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_anything_above_zero_is_defective(tmp_path, value, mode):
    write_mask(tmp_path / "mask.png", value=value, mode=mode)
    mask = read_mask(tmp_path / "mask.png")
    assert (mask.dtype, mask.shape) == (bool, (40, 60))
    assert mask[:2].all()
    assert not mask[2:].any()


def test_single_bit_and_wide_masks_are_read(tmp_path):
    pixels = np.zeros((4, 5), dtype=np.uint16)
    pixels[0, 3] = 256  # its lower byte is 0
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels > 0).save(tmp_path / "bit.png")
    for name in ("wide.png", "bit.png"):
        assert np.argwhere(read_mask(tmp_path / name)).tolist() == [[0, 3]]


def test_index_counts_and_not_the_palettes_colour(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="L").convert("P")
    image.putpalette([90, 90, 90, 0, 0, 0, 9, 9, 9] + [0] * 759)
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[False, True, True]]


def test_mask_that_calls_nothing_defective_is_refused(tmp_path):
    write_mask(tmp_path / "mask.png", value=0)
    with pytest.raises(DatasetError, match=r"mask\.png calls every pixel normal"):
        read_mask(tmp_path / "mask.png")


def test_what_is_no_mask_is_named(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"cannot read mask .*mask\.png"):
        read_mask(tmp_path / "mask.png")
    write_image(tmp_path / "mask.png")
    Image.open(tmp_path / "mask.png").convert("CMYK").save(tmp_path / "mask.jpg")
    with pytest.raises(DatasetError, match="pixel format CMYK"):
        read_mask(tmp_path / "mask.jpg")
