"""The layout of MVTec AD: what is found, and what is told of files that are missing."""

from __future__ import annotations

import pytest
from small_trees import write_image, write_mask, write_mvtec_category

from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.errors import DatasetError


@pytest.fixture
def root(tmp_path):
    for name in ("screw", "carpet", "cookie"):
        write_mvtec_category(tmp_path / name)
    return tmp_path


@pytest.fixture
def category(tmp_path):
    return write_mvtec_category(tmp_path / "bottle")


def load_one(folder):
    (category,) = load_mvtec(folder)
    return category


def test_images_come_with_label_and_mask(category):
    found = load_one(category)
    assert (found.name, found.folder) == ("bottle", category)
    assert [path.name for path in found.good] == [f"00{i}.png" for i in range(5)]
    assert [
        (found.name_of(image.path), image.defect, image.mask and found.name_of(image.mask))
        for image in found.test
    ] == [
        ("test/good/000.png", "good", None),
        ("test/good/001.png", "good", None),
        ("test/crack/000.png", "crack", "ground_truth/crack/000_mask.png"),
        ("test/crack/001.png", "crack", "ground_truth/crack/001_mask.png"),
        ("test/hole/000.png", "hole", "ground_truth/hole/000_mask.png"),
        ("test/hole/001.png", "hole", "ground_truth/hole/001_mask.png"),
    ]
    assert [image.is_defective for image in found.test] == [False] * 2 + [True] * 4


def test_mask_may_be_called_as_its_image(category):
    for mask in list((category / "ground_truth").rglob("*_mask.png")):
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    assert all(image.mask for image in load_one(category).test if image.is_defective)


def test_what_is_no_image_is_left_out(category):
    for folder in ("train/good", "test/crack", "ground_truth/crack", "test/good"):
        (category / folder / "Thumbs.db").write_bytes(b"")
        (category / folder / ".hidden.png").write_bytes(b"")
    (category / "test/.cache").mkdir()
    found = load_one(category)
    assert (len(found.test), len(found.good)) == (6, 5)
    assert {found.name_of(path) for path in found.passed_over} == {
        "train/good/Thumbs.db", "test/crack/Thumbs.db", "ground_truth/crack/Thumbs.db",
        "test/good/Thumbs.db",
    }  # fmt: skip


def test_categories_are_alphabetical_and_chosen_by_name(root):
    assert [one.name for one in load_mvtec(root)] == ["carpet", "cookie", "screw"]
    assert [one.name for one in load_mvtec(root, ["screw", "carpet"])] == ["carpet", "screw"]
    with pytest.raises(DatasetError, match="no category nut in .*it has carpet, cookie, screw"):
        load_mvtec(root, ["nut", "screw"])


def test_textures_and_rotated_parts_are_known(root):
    found = {one.name: (one.texture, one.rotated) for one in load_mvtec(root)}
    assert found == {
        "carpet": (True, False), "cookie": (False, False), "screw": (False, True)
    }  # fmt: skip


def test_category_without_ground_truth_has_no_masks(tmp_path):
    found = load_one(write_mvtec_category(tmp_path / "cell", masks=False))
    assert not any(image.mask for image in found.test)
    assert [image.is_outlined for image in found.test] == [True] * 2 + [False] * 4


def test_unmasked_defects_are_taken_where_they_are_declared(category):
    write_image(category / "test_unmasked/crack/090.png")
    found = load_one(category)
    last = found.test[-1]
    assert (last.path.name, last.defect, last.mask) == ("090.png", "crack", None)
    assert last.is_defective
    assert not last.is_outlined
    assert len(found.test) == 7


def test_missing_masks_are_named_and_counted(tmp_path):
    folder = write_mvtec_category(tmp_path / "bottle", defects=("crack",))
    for number in range(2, 6):
        write_image(folder / f"test/crack/{number:03d}.png")
    with pytest.raises(DatasetError) as caught:
        load_mvtec(folder)
    message = str(caught.value)
    assert "4 of 6 images" in message
    assert "test/crack/002.png, test/crack/003.png, test/crack/004.png and 1 more" in message
    assert "test_unmasked/crack" in message


def test_missing_images_of_masks_are_named(category):
    (category / "test/hole/001.png").unlink()
    with pytest.raises(DatasetError, match="1 masks .* ground_truth/hole/001_mask.png;"):
        load_mvtec(category)


def test_missing_kind_of_defect_is_named(category):
    write_mask(category / "ground_truth/scratch/000_mask.png")
    with pytest.raises(DatasetError, match="masks of scratch, but there is no folder"):
        load_mvtec(category)


@pytest.mark.parametrize(
    ("folder", "what"),
    [("train/good", "good training"), ("test/good", "good test"), ("test/crack", "defective test")],
)
def test_category_without_one_class_is_refused(tmp_path, folder, what):
    category = write_mvtec_category(tmp_path / "bottle", defects=("crack",), masks=False)
    for path in (category / folder).iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=f"bottle .* has no {what} image"):
        load_mvtec(category)


def test_folder_of_another_layout_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="no folder in .* expected .*/CATEGORY/train/good"):
        load_mvtec(tmp_path)
