from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

import memory_bank
import zero_shot_batch
from memory_bank import RowFile
from refusals import InspectionRefused
from served_size import ServedSize
from zero_shot_batch import Batch
from zero_shot_options import ZeroShotOptions

SIZE = ServedSize("56", "anomaly_dino_56", "backbone_56", (4, 4), 12, "tiny", "a", "b", "c", "", "")


def picture(seed, size=(56, 56), centre=None):
    """Noise of one mean colour, with a centre of another where asked."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(90, 110, (*size, 3), dtype=np.uint8)
    if centre is not None:
        pixels[14:42, 14:42] = centre
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tokens_of(pixels):
    """A patch's mean colour, far from the origin, stands in for the backbone."""
    patches = pixels.reshape(4, 14, 4, 14, 3).mean(axis=(1, 3)).reshape(16, 3)
    return np.concatenate([patches, np.full((16, 1), 50)], axis=1).astype(np.float32)


@pytest.fixture
def batch(tmp_path):
    """Begins batches; they are closed afterwards."""
    with contextlib.ExitStack() as stack:

        def begin(**options):
            given = ZeroShotOptions.from_json({"session": "s", **options})
            rows = RowFile(tmp_path)
            begun = Batch.begin(SIZE, (56, 56), given, {"runtime": "none"}, rows)
            return stack.enter_context(contextlib.closing(begun))

        yield begin


@pytest.fixture
def filled(batch):
    """Makes batches of images."""

    def fill(images, **options):
        one = batch(**options)
        one.add(tuple(f"{i}.png" for i in range(len(images))), images, tokens_of)
        return one

    return fill


def test_odd_patches_of_one_image_stand_out(filled):
    images = [picture(seed) for seed in range(5)] + [picture(9, centre=(250, 10, 10))]
    one = filled(images, masking="never")
    maps = [one.distances(index) for index in range(6)]
    scores = [one.score(index, map_) for index, map_ in enumerate(maps)]
    assert int(np.argmax(scores)) == 5
    assert scores[5] > 20 * max(scores[:5])
    assert set(zip(*np.where(maps[5] > 0.05), strict=True)) == {
        (row, column) for row in (1, 2) for column in (1, 2)
    }


def test_counts_are_of_all_other_images(filled):
    one = filled([picture(seed) for seed in range(3)], alpha=0.25)
    assert (one.num_patches, one.num_bank_patches, one.num_nearest) == (16, 32, 8)


def test_order_of_images_does_not_matter(filled):
    images = [picture(seed, centre=(seed * 40, 100, 100)) for seed in range(4)]
    forwards, backwards = filled(images), filled(images[::-1])
    for index in range(4):
        np.testing.assert_allclose(
            forwards.distances(index), backwards.distances(3 - index), atol=1e-6
        )


def test_masked_patches_are_zero_and_the_first_image_decides(filled, monkeypatch):
    mask = np.eye(4, dtype=bool)
    monkeypatch.setattr(zero_shot_batch, "foreground_mask", lambda tokens, grid: mask)
    images = [picture(seed, centre=(seed * 60, 100, 100)) for seed in range(3)]
    masked = filled(images, masking="always")
    plain = filled(images, masking="never")
    np.testing.assert_array_equal(masked.distances(1), np.where(mask, plain.distances(1), 0))
    assert masked.score(1, masked.distances(1)) == masked.distances(1).max()
    tested = filled(images)  # a colour in the middle is no object to the test
    assert (masked.masked, plain.masked) == (True, False)
    assert tested.masked is tested.masking_test["passed"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", r"image b\.png: the image is empty"),
        (picture(1)[:500], r"image b\.png: .*truncated"),
        (picture(0), r"image b\.png: it is the same file as a\.png"),
        (picture(2, size=(56, 112)), r"image b\.png: .* another aspect ratio than the first"),
    ],
)
def test_part_with_a_bad_image_leaves_no_trace(batch, bad, reason):
    one = batch()
    with pytest.raises(InspectionRefused, match=reason):
        one.add(("a.png", "b.png", "c.png"), [picture(0), bad, picture(3)], tokens_of)
    assert (one.members, one.rows.num_rows) == ([], 0)
    one.add(("a.png", "c.png"), [picture(0), picture(3)], tokens_of)
    assert one.num_bank_patches == 16


def test_file_of_an_earlier_part_is_known(filled):
    one = filled([picture(0), picture(1)])
    with pytest.raises(InspectionRefused, match=r"image again: it is the same file as 1\.png"):
        one.add(("new", "again"), [picture(2), picture(1)], tokens_of)
    assert len(one.members) == 2


def test_batches_that_cannot_be_scored_say_why(filled):
    one = filled([picture(0)])
    with pytest.raises(InspectionRefused, match="one image has nothing to compare"):
        one.distances(0)
    with pytest.raises(InspectionRefused, match=r"no image 1; the batch has 1, from 0"):
        one.distances(1)


def test_full_disk_is_told_before_it_is_full(filled, monkeypatch):
    one = filled([picture(0)])
    monkeypatch.setattr(memory_bank, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(InspectionRefused, match=r"bytes free; 16 more patches need 256 and"):
        one.add(("b",), [picture(1)], tokens_of)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "'session' is ''"),
        ({"session": "s" * 201}, "'session'"),
        ({"session": "s", "score": -1}, "'score' is -1"),
        ({"session": "s", "score": True}, "'score' is True"),
        ({"session": "s", "alpha": 1}, "'alpha' is 1, expected a share between 0 and 1"),
        ({"session": "s", "alpha": 0.0}, "'alpha'"),
        ({"session": "s", "statistic": "median"}, "expected one of max, mean"),
        ({"session": "s", "masking": "yes"}, "expected one of test, always, never"),
        ({"session": "s", "resolution": 450}, "multiple of the 14 px patch"),
        ({"session": "s", "image_names": [1]}, "list of short strings"),
        ({"session": "s", "image_score": "min"}, "'image_score'"),
        ({"session": "s", "close": 1}, "'close'"),
        ({"session": "s", "shots": 1}, "unknown options"),
        ([], "JSON object"),
    ],
)
def test_options_are_checked(options, reason):
    with pytest.raises(InspectionRefused, match=reason):
        ZeroShotOptions.from_json(options)


def test_later_parts_may_repeat_options_not_change_them():
    first = ZeroShotOptions.from_json({"session": "s", "alpha": 0.01})
    ZeroShotOptions.from_json({"session": "s", "alpha": 0.01, "score": 3}).check_repeats(first)
    with pytest.raises(InspectionRefused, match=r"'statistic' is 'mean', but the first part"):
        ZeroShotOptions.from_json({"session": "s", "statistic": "mean"}).check_repeats(first)
