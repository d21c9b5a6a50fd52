from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dinspect_client import InvalidImageError
from dinspect_client.images import MAX_NAME, expand_paths, image_list, image_names


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a/1.png", "a/2.png"], ["1.png", "2.png"]),
        (["a/1.png", Path("b/1.png"), "c/2.png"], ["a/1.png", "b/1.png", "2.png"]),
        (["x/a/1.png", "y/a/1.png"], ["x/a/1.png", "y/a/1.png"]),
        (["1.png", "a/1.png"], ["1.png", "a/1.png"]),
        ([b"x", "1.png", b"y"], ["image-1", "1.png", "image-3"]),
        (["1.png", "1.png"], ["1.png", "1.png"]),  # the very same file
    ],
)
def test_images_of_one_name_are_told_apart_by_their_folders(images, names) -> None:
    assert image_names(images) == names


def test_long_name_keeps_its_end() -> None:
    (name,) = image_names(["x" * 240 + "-0007.png"])

    assert len(name) == MAX_NAME
    assert name.startswith("...x")
    assert name.endswith("x-0007.png")


def test_longest_name_that_is_kept_stays_whole() -> None:
    assert image_names(["x" * MAX_NAME]) == ["x" * MAX_NAME]


def test_name_that_is_no_text_can_be_sent() -> None:
    (name,) = image_names([os.fsdecode(b"part-\xff.png")])

    assert name.encode("utf-8")
    assert name == "part-?.png"


def test_list_of_images_is_checked_as_a_whole(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    good = [tmp_path / "a.png", str(tmp_path / "a.png"), b"x", np.zeros((2, 3, 3), np.uint8)]

    assert [id(one) for one in image_list(good)] == [id(one) for one in good]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "image is empty"),
        (bytearray(), "image is empty"),
        (np.zeros((2, 3), np.uint8), "expected uint8"),
        ("missing.png", r"cannot read image missing\.png: No such file"),
        ("null\0.png", "null"),
        (None, "cannot read image None"),
    ],
)
def test_unfit_image_in_a_list_is_named(image, message) -> None:
    with pytest.raises(InvalidImageError, match=message):
        image_list([b"x", image])


def test_empty_file_in_a_list_is_named(tmp_path) -> None:
    (tmp_path / "empty.png").touch()

    with pytest.raises(InvalidImageError, match=r"empty\.png is empty"):
        image_list([tmp_path / "empty.png"])


def test_folders_become_their_images_by_name(tmp_path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".a.png", "a.inspection.png"):
        (tmp_path / name).write_bytes(b"x")

    assert expand_paths([tmp_path]) == [tmp_path / "a.JPG", tmp_path / "b.png"]
