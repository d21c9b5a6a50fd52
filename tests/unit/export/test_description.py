"""`engines.toml` is read strictly: what is misspelt or impossible is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from descriptions import BACKBONE, CHECK, ENGINE, SMALL, write_description

from dinspect_export.check_images import CheckImages, check_pixels, find_images
from dinspect_export.description import read_description
from dinspect_export.errors import DescriptionError, InvalidGeometryError, UnknownVariantError

ROOT = Path(__file__).parents[3]


def test_repositorys_own_description_is_what_the_mission_says():
    description = read_description(ROOT / "engines.toml")
    (backbone,) = description.backbone
    (engine,) = description.engine
    assert backbone.sizes == ["448", "672", "1036"]
    assert backbone.precisions == ["fp32", "fp16"]
    assert (backbone.batch.min, backbone.batch.max) == (1, 8)
    assert backbone.layers is None
    assert (engine.target, engine.precision) == ("tensorrt-rtx", "fp16")
    assert len(description.check_images.references) >= 2


def test_defaults_and_paths(tmp_path):
    (tmp_path / "weights").mkdir()
    text = CHECK + '[[backbone]]\nvariant = "dinov2_vitb14_reg"\nsizes = [448, "448x588"]\n'
    description = read_description(write_description(tmp_path, text))
    (backbone,) = description.backbone
    assert backbone.grids == [(32, 32), (32, 42)]
    assert description.weights_of(backbone) == "meta"
    assert description.artefacts_dir == tmp_path / "build" / "artefacts"
    other = backbone.model_copy(update={"weights": "weights"})
    assert description.weights_of(other) == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "check: Field required"),
        (CHECK, r"describes nothing"),
        ("[check", "cannot read"),
        (SMALL.replace("sizes", "sices"), r"backbone\.0\.sizes: Field required; backbone\.0\.sices"),
        (SMALL.replace("tensorrt-rtx", "onnx"), r"engine\.0\.target: .*'tensorrt' or 'tensorrt-rtx'"),
        (SMALL.replace("layers = [1]", "layers = [0]"), r"backbone\.0\.layers\.0: .*greater than"),
        (SMALL.replace("layers = [1]", "batch = {min = 3, max = 2}"), "expected min <= opt <= max"),
        (SMALL.replace("layers = [1]", 'precisions = ["int4"]'), "'fp32', 'fp16' or 'int8'"),
        (SMALL.replace('"8.6"', "8.6"), r"compute_capabilities\.0: Input should be a valid string"),
        (SMALL.replace('"8.6"', '"sm_86"'), r"compute_capabilities\.0: String should match"),
        (SMALL.replace("sizes = [56]", "sizes = []"), r"backbone\.0\.sizes: List should have"),
        (SMALL + 'name = "Über"\n', r"engine\.0\.name: String should match"),
    ],
)  # fmt: skip
def test_impossible_descriptions_are_refused(tmp_path, text, reason):
    path = write_description(tmp_path, text)
    with pytest.raises(DescriptionError, match=reason) as caught:
        read_description(path)
    assert str(path) in str(caught.value)


def test_impossible_sizes_and_variants_are_refused(tmp_path):
    with pytest.raises(InvalidGeometryError, match="450"):
        read_description(write_description(tmp_path, SMALL.replace("[56]", "[450]")))
    with pytest.raises(UnknownVariantError, match="published variants"):
        read_description(write_description(tmp_path, SMALL.replace("vits14", "vitx14")))


@pytest.mark.parametrize("layers", ["[13]", "[8, 4]", "[4, 4]", "[]"])
def test_impossible_layers_are_refused(tmp_path, layers):
    with pytest.raises(InvalidGeometryError, match=r"ascending block numbers within 1\.\.12"):
        read_description(
            write_description(tmp_path, SMALL.replace("layers = [1]", f"layers = {layers}"))
        )


def test_entries_that_nothing_comes_of_are_refused(tmp_path):
    from dinspect_export.build_plan import Plan

    text = SMALL.replace("layers = [1]", 'precisions = ["fp32"]')
    with pytest.raises(
        DescriptionError, match=r"\[\[engine\]\] tensorrt-rtx is for graphs in fp16"
    ):
        Plan(read_description(write_description(tmp_path, text)), download=False)
    (tmp_path / "g.onnx").write_bytes(b"")
    text = CHECK + '[[graph]]\nname = "g"\nfile = "g.onnx"\n'
    with pytest.raises(DescriptionError, match="no \\[\\[engine\\]\\] is for that"):
        Plan(read_description(write_description(tmp_path, text)), download=False)


def test_missing_description_is_named(tmp_path):
    with pytest.raises(DescriptionError, match=r"no .*engines\.toml; write one"):
        read_description(tmp_path / "engines.toml")


def test_images_are_found_in_every_way(tmp_path, split):
    folder = tmp_path / "good"
    folder.mkdir()
    names = ["b.png", "a.png", "c.JPG"]
    for name in names:
        (folder / name).write_bytes(split.enrolled[0].read_bytes())
    (folder / "notes.txt").write_text("no image")
    (folder / "a.inspection.png").write_bytes(b"what `dinspect inspect` leaves beside a.png")
    everything = tuple(folder / name for name in sorted(names))
    assert find_images(["good"], tmp_path) == everything
    assert find_images(["good/*"], tmp_path) == everything
    assert find_images([str(folder)], Path("elsewhere")) == everything
    assert find_images(["good/c.JPG", "good"], tmp_path) == (
        everything[2], everything[0], everything[1]
    )  # fmt: skip
    (cell,) = find_images(["package:elpv_dataset/data/images/cell0001.png"], tmp_path)
    assert cell.is_file()


@pytest.mark.parametrize("pattern", ["good", "*.png", "package:no_such_package/a.png", "package:", "/nothing/*.png", ".", "a**/x", "package:__main__/x"])  # fmt: skip
def test_pattern_without_images_is_named(tmp_path, pattern):
    with pytest.raises(InvalidGeometryError) as caught:
        find_images([pattern], tmp_path)
    assert repr(pattern) in str(caught.value)


def test_check_images_need_an_image_and_no_single_reference(split):
    with pytest.raises(InvalidGeometryError, match="at least one real image"):
        CheckImages(images=())
    with pytest.raises(InvalidGeometryError, match="given as reference and as image"):
        CheckImages(images=tuple(split.enrolled[:2]), references=tuple(split.enrolled[1:3]))
    with pytest.raises(InvalidGeometryError, match="one reference"):
        CheckImages(images=tuple(split.enrolled[:1]), references=tuple(split.enrolled[1:2]))
    with pytest.raises(InvalidGeometryError, match="cannot read a check image"):
        CheckImages(images=(Path("gone.png"),)).digests()


def test_check_pixels_are_height_by_width(split):
    assert check_pixels(split.enrolled[0], (28, 42)).shape == (28, 42, 3)


def test_engine_entries_are_independent_of_backbones(tmp_path):
    description = read_description(write_description(tmp_path, CHECK + ENGINE + BACKBONE))
    assert len(description.engine) == len(description.backbone) == 1
