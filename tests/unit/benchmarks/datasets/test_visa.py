"""VisA's own layout: its split decides, and every file that it names must be there."""

from __future__ import annotations

import pytest
from small_trees import read_split, write_split, write_visa

from dinspect_bench.datasets.visa import load_visa
from dinspect_bench.errors import DatasetError


@pytest.fixture
def root(tmp_path):
    return write_visa(tmp_path)


def test_split_decides_what_is_learnt_from_and_what_is_inspected(root):
    candle, pcb = load_visa(root)
    assert (candle.name, pcb.name) == ("candle", "pcb1")
    assert [candle.name_of(path) for path in candle.good] == [
        f"Data/Images/Normal/000{i}.JPG" for i in range(4)
    ]
    assert [
        (candle.name_of(image.path), image.defect, image.mask and candle.name_of(image.mask))
        for image in candle.test
    ] == [
        ("Data/Images/Normal/0004.JPG", "good", None),
        ("Data/Images/Normal/0005.JPG", "good", None),
        ("Data/Images/Anomaly/000.JPG", "anomaly", "Data/Masks/Anomaly/000.png"),
        ("Data/Images/Anomaly/001.JPG", "anomaly", "Data/Masks/Anomaly/001.png"),
    ]


def test_categories_are_chosen_by_name(root):
    assert [one.name for one in load_visa(root, ["pcb1"])] == ["pcb1"]
    with pytest.raises(DatasetError, match="no category fryum in .*it has candle, pcb1"):
        load_visa(root, ["fryum"])


def test_missing_files_are_named_and_counted(root):
    for number in range(4):
        (root / f"candle/Data/Images/Normal/000{number}.JPG").unlink()
    (root / "candle/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(DatasetError) as caught:
        load_visa(root)
    message = str(caught.value)
    assert "5 of 20 files that split_csv/1cls.csv names are missing" in message
    assert "and 2 more" in message
    assert [one.name for one in load_visa(root, ["pcb1"])] == ["pcb1"]


def test_missing_split_is_told(root):
    (root / "split_csv/1cls.csv").unlink()
    with pytest.raises(DatasetError, match="cannot read the official split .*spot-diff"):
        load_visa(root)


def test_split_of_other_columns_is_refused(root):
    write_split(root, read_split(root), head="object,split,label,image")
    with pytest.raises(DatasetError, match="has the columns object, split, label, image, expected"):
        load_visa(root)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("candle,test,normal", "line 3 has 3 fields, expected 5"),
        ("candle,validation,normal,candle/Data/Images/Normal/0000.JPG,", "line 3 is"),
        ("candle,test,fine,candle/Data/Images/Normal/0000.JPG,", "line 3 is"),
        ("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,", "a mask for an anomaly alone"),
        ("candle,test,normal,pcb1/Data/Images/Normal/0000.JPG,", "in the object's folder"),
        ("candle,test,normal,candle/../pcb1/Data/Images/Normal/0000.JPG,", "line 3 is"),
        ("candle,test,normal,,", "line 3 is"),
        (
            "candle,train,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
            "line 3 trains on an anomaly",
        ),
    ],
)
def test_line_that_is_none_of_the_splits_is_named(root, line, reason):
    first, _, *rest = read_split(root)
    write_split(root, [first, line, *rest])
    with pytest.raises(DatasetError, match=reason):
        load_visa(root)


def test_object_without_anomalies_is_refused(root):
    write_split(root, [line for line in read_split(root) if ",anomaly," not in line])
    with pytest.raises(DatasetError, match="candle .* has no defective test image"):
        load_visa(root)
