"""What a category says of itself: names, and the digest of what is measured."""

from __future__ import annotations

import pytest
from small_trees import (
    read_split,
    write_image,
    write_mask,
    write_mvtec_category,
    write_split,
    write_visa,
)

from dinspect_bench.datasets.category import first_names
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.datasets.visa import load_visa
from dinspect_bench.errors import DatasetError


def digest_of(folder):
    return load_mvtec(folder)[0].sha256()


def test_digest_is_the_files_and_not_where_they_lie(tmp_path):
    first, second = (write_mvtec_category(tmp_path / name / "nut") for name in "ab")
    digest = digest_of(first)
    assert digest == digest_of(second)
    assert len(digest) == 64


def test_digest_changes_with_every_kind_of_file(tmp_path):
    folder = write_mvtec_category(tmp_path / "nut")
    seen = {digest_of(folder)}
    write_image(folder / "train/good/000.png", value=77)
    seen.add(digest_of(folder))
    write_image(folder / "test/crack/000.png", value=77)
    seen.add(digest_of(folder))
    write_mask(folder / "ground_truth/crack/000_mask.png", value=7)
    seen.add(digest_of(folder))
    (folder / "test/good/001.png").rename(folder / "test/good/002.png")
    seen.add(digest_of(folder))
    assert len(seen) == 5


def test_digest_changes_with_the_split(tmp_path):
    """The same files, one of them moved from the last to learn from to the first to inspect."""
    lines = read_split(write_visa(tmp_path, names=("candle",)))
    before = load_visa(tmp_path)[0]
    moved = ["candle,test" + one[12:] if "0003.JPG" in one else one for one in lines]
    assert sorted(moved) != sorted(lines)
    write_split(tmp_path, moved)
    after = load_visa(tmp_path)[0]
    names = [[*one.good, *(image.path for image in one.test)] for one in (before, after)]
    assert names[0] == names[1]
    assert before.sha256() != after.sha256()


def test_file_that_vanished_is_named(tmp_path):
    folder = write_mvtec_category(tmp_path / "nut")
    (category,) = load_mvtec(folder)
    (folder / "test/good/001.png").unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*test/good/001\.png"):
        category.sha256()


def test_first_names_are_few():
    assert first_names("abc") == "a, b, c"
    assert first_names("abcde") == "a, b, c and 2 more"
