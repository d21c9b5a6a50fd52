"""Which layout a folder is in, and what the data set is called."""

from __future__ import annotations

import shutil

import pytest
from small_trees import write_mvtec_category, write_visa

from dinspect_bench.datasets.layouts import detect_layout, load_dataset
from dinspect_bench.errors import DatasetError


def test_layout_is_seen_by_the_files(tmp_path):
    category = write_mvtec_category(tmp_path / "mvtec" / "bottle")
    assert detect_layout(category) == "mvtec"
    assert detect_layout(category.parent) == "mvtec"
    (tmp_path / "VisA").mkdir()
    assert detect_layout(write_visa(tmp_path / "VisA")) == "visa"


def test_published_data_sets_are_called_by_their_names(tmp_path):
    write_mvtec_category(tmp_path / "data/bottle")
    assert load_dataset(tmp_path / "data").name == "mvtec_ad"
    write_mvtec_category(tmp_path / "data/cookie")
    assert load_dataset(tmp_path / "data").name == "data"
    assert load_dataset(tmp_path / "data", categories=["bottle"]).name == "mvtec_ad"
    assert load_dataset(tmp_path / "data/bottle").name == "bottle"
    assert load_dataset(tmp_path / "data", name="mine").name == "mine"


def test_visa_is_called_so_in_both_its_layouts(tmp_path):
    (tmp_path / "own").mkdir()
    found = load_dataset(write_visa(tmp_path / "own"))
    assert (found.name, found.layout, len(found.categories)) == ("visa", "visa", 2)
    write_mvtec_category(tmp_path / "prepared/candle", defects=("bad",))
    prepared = load_dataset(tmp_path / "prepared")
    assert (prepared.name, prepared.layout) == ("visa", "mvtec")


def test_layout_that_is_named_is_not_guessed(tmp_path):
    write_visa(tmp_path)
    with pytest.raises(DatasetError, match="laid out like MVTec AD"):
        load_dataset(tmp_path, layout="mvtec")


def test_visa_without_its_split_is_told_apart(tmp_path):
    write_visa(tmp_path)
    shutil.rmtree(tmp_path / "split_csv")
    with pytest.raises(DatasetError, match="lacks the official split split_csv/1cls.csv"):
        load_dataset(tmp_path)


def test_folder_of_no_layout_and_no_folder_are_told(tmp_path):
    with pytest.raises(DatasetError, match="neither like MVTec AD .* nor like VisA"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="there is no folder .*missing"):
        load_dataset(tmp_path / "missing")
