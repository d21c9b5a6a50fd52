"""Which images are shown, and how."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from accuracy_fakes import blob_map
from small_trees import write_image, write_mask

from dinspect_bench.accuracy.inspected_category import InspectedCategory
from dinspect_bench.accuracy.worst_images import (
    PictureFolder,
    color_peak,
    paint,
    worst_images,
    worst_indices,
)
from dinspect_bench.datasets.category import LabelledImage

SIZE = (400, 600)


@pytest.fixture
def inspected(tmp_path):
    """Two good images and two defective ones, the second of which nobody outlined."""
    images, files = [], []
    for number, defect in enumerate(("good", "good", "crack", "crack")):
        path = tmp_path / f"{number}.png"
        write_image(path, SIZE, value=100)
        mask = None
        if number == 2:
            mask = tmp_path / "mask.png"
            write_mask(mask, SIZE)
        images.append(LabelledImage(path, defect, mask))
        files.append(tmp_path / f"{number:05d}.npy")
        np.save(files[-1], blob_map(SIZE, rows=40, high=float(number)))
    peaks = tuple(float(np.load(file).max()) for file in files)
    names = tuple(path.name for path in (image.path for image in images))
    return InspectedCategory(tuple(images), names, (0.4, 0.9, 0.3, 0.8), tuple(files), peaks)


def test_low_defective_and_high_good_ones_are_the_worst():
    labels = [False, True, False, True, False, True, True, False]
    scores = (0.1, 0.5, 0.9, 0.2, 0.3, 0.8, 0.1, 0.7)
    assert worst_indices(labels, scores) == [6, 3, 1, 2, 7, 4]
    assert worst_indices([True, False], (0.3, 0.1)) == [0, 1]


def test_entries_name_file_label_score_and_picture(inspected, tmp_path):
    pictures = PictureFolder(tmp_path / "out_pictures", tmp_path)
    entries = worst_images(inspected, pictures, "nut-12ab")
    assert [(one["file"], one["label"], one["score"]) for one in entries] == [
        ("2.png", "crack", 0.3), ("3.png", "crack", 0.8), ("1.png", "good", 0.9), ("0.png", "good", 0.4)
    ]  # fmt: skip
    assert entries[0]["picture"] == "out_pictures/nut-12ab-00002.jpg"
    for one in entries:
        path = tmp_path / one["picture"]
        assert path.stat().st_size < 30_000
        assert cv2.imread(str(path)).shape == (213, 320, 3)
    assert len(list((tmp_path / "out_pictures").iterdir())) == 4


def test_colours_end_where_half_of_the_defective_images_reach(inspected):
    assert color_peak(inspected) == pytest.approx(
        (inspected.map_peaks[2] + inspected.map_peaks[3]) / 2
    )


def test_colours_need_a_scale_even_of_nothing(inspected):
    flat = InspectedCategory(
        inspected.images, inspected.names, inspected.scores, inspected.map_files, (0.0,) * 4
    )
    assert color_peak(flat) > 0


def test_picture_shows_the_map_and_the_outline(inspected):
    picture = paint(inspected, 2, peak=2.0)
    assert picture.shape == (213, 320, 3)
    assert (picture[0] == 255).all()  # the defect's first row is its outline
    assert picture[10].std(axis=-1).mean() > 10  # the map glows, the image is grey
    assert (picture[100] == 100).all()  # far from it, the image's own pixels
    without = paint(inspected, 3, peak=2.0)
    assert not (without == 255).all(axis=-1).any()


def test_small_defect_keeps_its_outline(inspected, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[200, 300] = 1  # a pixel that any other would skip
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    picture = paint(inspected, 2, peak=1e9)
    assert (picture == 255).all(axis=-1).sum() >= 1


def test_small_image_is_not_enlarged(tmp_path):
    write_image(tmp_path / "a.png", (40, 60))
    np.save(tmp_path / "a.npy", blob_map((40, 60)))
    image = LabelledImage(tmp_path / "a.png", "good")
    one = InspectedCategory((image,), ("a.png",), (0.1,), (Path(tmp_path / "a.npy"),), (1.0,))
    assert paint(one, 0, peak=1.0).shape == (40, 60, 3)
