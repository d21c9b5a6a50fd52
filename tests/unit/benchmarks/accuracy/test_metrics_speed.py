"""The script that times the figures, on a class small enough for a test."""

from __future__ import annotations

import json
import sys
import tracemalloc

import numpy as np
import pytest

import metrics_speed
from dinspect_bench.accuracy.pixel_scores import collect_pixel_scores

SIZE = (84, 126)


@pytest.fixture
def stored(tmp_path):
    return metrics_speed.write_class(tmp_path, 6, SIZE, seed=3)


def test_maps_are_raised_where_there_is_a_defect(stored):
    maps, masks = stored
    assert len(maps) == len(masks) == 6
    assert [mask.any() for mask in masks] == [False, True] * 3
    pairs = [(one, mask) for one, mask in zip(maps, masks, strict=True) if mask.any()]
    inside = np.mean(np.concatenate([one[mask] for one, mask in pairs]))
    outside = np.mean(np.concatenate([one[~mask] for one, mask in pairs]))
    assert inside > outside + 0.02
    assert {(one.shape, one.dtype) for one in maps} == {(SIZE, np.dtype(np.float32))}


def test_record_of_a_small_class_is_whole(monkeypatch, tmp_path, capsys):
    output = tmp_path / "speed.jsonl"
    command = ["metrics_speed.py", "--images", "4", "--size", "84x126", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    metrics_speed.main()
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(output.read_text())
    assert (record["num_images"], record["height_px"], record["width_px"]) == (4, 84, 126)
    assert record["measured_s"] > 0
    assert record["peak_mb"] >= record["before_mb"] > 0
    assert 0 < record["aupro_05"] < record["aupro_30"] < 1
    assert record["environment"]["packages"]["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--size", "64", "'64' is not HEIGHTxWIDTH"), ("--size", "axb", "is not HEIGHTxWIDTH"),
        ("--size", "8x64", "smaller than a patch"), ("--images", "1", "1 is below 2"),
        ("--images", "0", "0 is not a positive number"), ("--seed", "-1", "-1 is below 0"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(monkeypatch, capsys, option, value, why):
    monkeypatch.setattr(sys, "argv", ["metrics_speed.py", f"{option}={value}"])
    with pytest.raises(SystemExit) as caught:
        metrics_speed.main()
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_maps_are_held_once(tmp_path):
    """About 4 bytes a pixel are asked of the system at the most, however many images there are."""
    maps, masks = metrics_speed.write_class(tmp_path, 60, (140, 210), seed=1)
    tracemalloc.start()
    try:
        collect_pixel_scores(maps, masks)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5.5 * 60 * 140 * 210
