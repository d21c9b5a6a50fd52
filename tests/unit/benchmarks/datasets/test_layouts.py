"""Which layout a folder is in, and what the data set is called."""

from __future__ import annotations

import shutil

import pytest
from small_trees import write_mvtec_category, write_visa

from dinspect_bench.datasets.layouts import detect_layout, load_dataset
from dinspect_bench.datasets.mvtec import MVTEC_AD_CATEGORIES
from dinspect_bench.datasets.visa import VISA_CATEGORIES
from dinspect_bench.errors import DatasetError


def test_layout_is_seen_by_the_files(tmp_path):
    category = write_mvtec_category(tmp_path / "mvtec" / "bottle")
    assert detect_layout(category) == "mvtec"
    assert detect_layout(category.parent) == "mvtec"
    (tmp_path / "VisA").mkdir()
    assert detect_layout(write_visa(tmp_path / "VisA")) == "visa"


def write_all(root, names):
    for name in names:
        write_mvtec_category(root / name, defects=("bad",), num_good=1)
    return root


def test_published_data_sets_are_called_by_their_names(tmp_path):
    data = write_all(tmp_path / "data", MVTEC_AD_CATEGORIES)
    assert load_dataset(data).name == "mvtec_ad"
    assert load_dataset(data / "bottle").name == "mvtec_ad"
    write_mvtec_category(data / "cookie")
    assert load_dataset(data).name == "data"
    assert load_dataset(data, categories=["bottle"]).name == "mvtec_ad"
    assert load_dataset(data / "cookie").name == "cookie"
    assert load_dataset(data, name="mine").name == "mine"


def test_plants_folder_with_a_published_name_is_its_own_data_set(tmp_path):
    write_mvtec_category(tmp_path / "plant/screw")
    assert load_dataset(tmp_path / "plant").name == "plant"
    assert load_dataset(tmp_path / "plant/screw").name == "screw"
    (tmp_path / "visa_part").mkdir()
    assert load_dataset(write_visa(tmp_path / "visa_part")).name == "visa_part"
    data = write_all(tmp_path / "data", MVTEC_AD_CATEGORIES[:-1])
    assert load_dataset(data, categories=["screw"]).name == "data"
    assert load_dataset(data, categories=["screw"], name="mvtec_ad").name == "mvtec_ad"


def test_visa_is_called_so_in_both_its_layouts(tmp_path):
    (tmp_path / "own").mkdir()
    found = load_dataset(write_visa(tmp_path / "own", VISA_CATEGORIES))
    assert (found.name, found.layout, len(found.categories)) == ("visa", "visa", 12)
    prepared = load_dataset(write_all(tmp_path / "prepared", VISA_CATEGORIES))
    assert (prepared.name, prepared.layout) == ("visa", "mvtec")


def test_published_data_set_without_masks_is_refused(tmp_path):
    folder = write_mvtec_category(tmp_path / "plant/screw")
    shutil.rmtree(folder / "ground_truth")
    assert load_dataset(tmp_path / "plant").name == "plant"
    with pytest.raises(DatasetError, match=r"4 defective images of screw .* test/crack/000\.png"):
        load_dataset(tmp_path / "plant", name="mvtec_ad")


@pytest.mark.parametrize("part", ["test", "ground_truth"])
def test_what_is_left_of_a_category_is_named(tmp_path, part):
    write_mvtec_category(tmp_path / "bottle")
    (tmp_path / "cable" / part / "bent").mkdir(parents=True)
    for wanted in (None, ["cable"]):
        with pytest.raises(DatasetError, match="incomplete: .*/cable with .* without train/good"):
            load_dataset(tmp_path, categories=wanted)
    assert len(load_dataset(tmp_path, categories=["bottle"]).categories) == 1
    with pytest.raises(DatasetError, match="incomplete: .*/cable with"):
        load_dataset(tmp_path / "cable")


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
