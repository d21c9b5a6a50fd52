"""One camera geometry a product: who is of another is told, or left out and said to be."""

from __future__ import annotations

import pytest
from PIL import Image
from small_trees import write_image, write_mvtec_category

from dinspect_bench.datasets.geometry import image_size, of_one_geometry, require_one_geometry
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.errors import DatasetError


@pytest.fixture
def folder(tmp_path):
    return write_mvtec_category(tmp_path / "weld")


def load_one(folder):
    return load_mvtec(folder)[0]


def test_size_is_height_and_width_as_the_camera_was_held(tmp_path):
    write_image(tmp_path / "flat.png", size=(40, 60))
    assert image_size(tmp_path / "flat.png") == (40, 60)
    for orientation, expected in ((1, (40, 60)), (3, (40, 60)), (6, (60, 40)), (8, (60, 40))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(tmp_path / "flat.png").save(tmp_path / "turned.jpg", exif=exif)
        assert image_size(tmp_path / "turned.jpg") == expected
    with pytest.raises(DatasetError, match=r"cannot read image .*none\.png"):
        image_size(tmp_path / "none.png")


def test_sizes_within_one_percent_are_one_geometry(folder):
    write_image(folder / "test/good/000.png", size=(80, 120))
    write_image(folder / "test/good/001.png", size=(200, 302))
    category = load_one(folder)
    require_one_geometry(category)
    assert of_one_geometry(category) == category


def test_other_sizes_are_refused_by_name_and_number(folder):
    write_image(folder / "train/good/001.png", size=(50, 60))
    write_image(folder / "test/crack/000.png", size=(40, 61))
    with pytest.raises(DatasetError) as caught:
        require_one_geometry(load_one(folder))
    message = str(caught.value)
    assert "2 of 11 images of weld have another aspect ratio than 60 x 40 px" in message
    assert "train/good/001.png (60 x 50 px), test/crack/000.png (61 x 40 px);" in message
    assert "--one-geometry" in message


def test_other_sizes_are_left_out_and_kept_on_record(folder):
    write_image(folder / "train/good/001.png", size=(50, 60))
    write_image(folder / "test/crack/000.png", size=(40, 65))
    chosen = of_one_geometry(load_one(folder))
    require_one_geometry(chosen)
    assert [path.name for path in chosen.good] == ["000.png", "002.png", "003.png", "004.png"]
    assert [chosen.name_of(image.path) for image in chosen.test if image.defect == "crack"] == [
        "test/crack/001.png"
    ]
    assert [chosen.name_of(path) for path in chosen.left_out] == [
        "train/good/001.png", "test/crack/000.png"
    ]  # fmt: skip
    assert chosen.sha256() != load_one(folder).sha256()


def test_commonest_size_wins_and_of_equals_the_larger(tmp_path):
    folder = write_mvtec_category(tmp_path / "weld", defects=("crack",), num_good=2)
    for name in ("train/good", "test/good", "test/crack"):
        write_image(folder / name / "000.png", size=(50, 60))
    chosen = of_one_geometry(load_one(folder))
    assert {path.name for path in chosen.good} == {"000.png"}


def test_geometry_without_good_parts_is_refused(folder):
    for number in range(2):
        write_image(folder / f"test/good/{number:03d}.png", size=(50, 60))
    with pytest.raises(DatasetError, match="weld .* has no good test image"):
        of_one_geometry(load_one(folder))
