"""Every test image counts, at the resolution of its ground truth; with a stand-in for the server."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from accuracy_fakes import FakeClient, blob_map
from small_trees import SIZE, write_image, write_mask, write_mvtec_category

from dinspect_bench.accuracy.inspected_category import inspect_category
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.errors import AccuracyError
from dinspect_client.errors import RequestRejected, ServerUnreachable

VERSION = SimpleNamespace(product="nut", version=7, method="anomaly_dino")


@pytest.fixture
def folder(tmp_path):
    return write_mvtec_category(tmp_path / "nut", defects=("crack",))


def inspect(folder, tmp_path, answer_of, version=VERSION):
    client = FakeClient(answer_of)
    client.there["nut"] = "bench-accuracy"
    maps = tmp_path / "maps"
    maps.mkdir()
    return inspect_category(client, version, load_mvtec(folder)[0], maps)


def by_content(path):
    """Score and map of an image by its grey value."""
    value = float(np.fromfile(path, np.uint8).sum() % 251)
    return value, blob_map(high=value)


def test_all_images_are_inspected_in_order_with_their_maps(folder, tmp_path):
    inspected = inspect(folder, tmp_path, by_content)
    assert inspected.names == (
        "test/good/000.png", "test/good/001.png", "test/crack/000.png", "test/crack/001.png"
    )  # fmt: skip
    assert inspected.is_defective == [False, False, True, True]
    expected = [by_content(image.path) for image in inspected.images]
    assert list(inspected.scores) == [score for score, _ in expected]
    maps, truth = inspected.outlined()
    assert len(maps) == len(truth) == 4
    for index, (_, anomaly_map) in enumerate(expected):
        assert np.array_equal(maps[index], anomaly_map)
        assert inspected.map_peaks[index] == anomaly_map.max()
    assert not truth[0].any()
    assert truth[2].sum() == 2 * SIZE[1]
    assert {truth[index].shape for index in range(4)} == {SIZE}


def test_maps_are_on_the_disk_and_not_in_memory(folder, tmp_path):
    inspected = inspect(folder, tmp_path, by_content)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        f"{number:05d}.npy" for number in range(4)
    ]
    maps, _ = inspected.outlined()
    np.save(inspected.map_files[3], np.full(SIZE, 9, np.float32))
    assert maps[3].max() == 9


def test_images_that_nobody_outlined_have_no_ground_truth(folder, tmp_path):
    write_image(folder / "test_unmasked/crack/090.png")
    inspected = inspect(folder, tmp_path, by_content)
    maps, truth = inspected.outlined()
    assert len(inspected.scores) == 5
    assert len(maps) == len(truth) == 4


@pytest.mark.parametrize(
    ("error", "status"), [(RequestRejected("too dark"), 2), (ServerUnreachable("gone"), 3)]
)
def test_failed_inspection_stops_the_run_by_name(folder, tmp_path, error, status):
    def fails(path):
        if path.match("crack/001.png"):
            raise error
        return by_content(path)

    with pytest.raises(
        AccuracyError, match=r"nut: test/crack/001\.png could not be .*: "
    ) as caught:
        inspect(folder, tmp_path, fails)
    assert caught.value.exit_status == status
    assert str(error) in str(caught.value)


def test_map_of_another_size_than_the_mask_is_an_error_with_both(folder, tmp_path):
    write_mask(folder / "ground_truth/crack/001_mask.png", size=(20, 30))
    with pytest.raises(AccuracyError) as caught:
        inspect(folder, tmp_path, by_content)
    assert "test/crack/001.png: the anomaly map is (40, 60), its ground truth (20, 30)" in str(
        caught.value
    )


@pytest.mark.parametrize(("wrong", "said"), [(blob_map((41, 60)), r"\(41, 60\)"), (None, "None")])
def test_map_of_another_size_than_a_good_image_is_an_error(folder, tmp_path, wrong, said):
    with pytest.raises(AccuracyError, match=rf"test/good/000\.png: the anomaly map is {said}"):
        inspect(folder, tmp_path, lambda path: (0.5, wrong))


def test_answer_of_another_version_is_an_error(folder, tmp_path):
    other = SimpleNamespace(product="nut", version=6, method="anomaly_dino")
    with pytest.raises(AccuracyError, match="answered by version 7, made .* was version 6"):
        inspect(folder, tmp_path, by_content, other)
