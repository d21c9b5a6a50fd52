"""Ensembles of L2BT's products, as the assembler writes them and as the server would."""

from __future__ import annotations

import json
import logging
import os
import shutil

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

import product_ensembles
from dinspect_server import l2bt_ensembles
from dinspect_server.ensemble_config import l2bt_config
from dinspect_server.l2bt_ensembles import write_product_ensembles, write_templates
from dinspect_server.triton_config import BackboneModel
from product_ensembles import ModelControl, ProductEnsembles

SQUARE = BackboneModel("vit_448", (32, 32), 384, (4, 8, 12))
WIDE = BackboneModel("vit_448x588", (32, 42), 384, (8, 12))
SINGLE = BackboneModel("vit_224", (16, 16), 384, (12,))
SMALL = BackboneModel("vit_56", (4, 4), 384, (8, 12))
BY_DIGEST = {"a" * 64: SQUARE, "b" * 64: WIDE, "c" * 64: SINGLE, "d" * 64: SMALL}
NAMES = ["l2bt_screw_448", "l2bt_screw_448_raw"]


def version(students, product, number, *, digest="a" * 64, layers=(8, 12), in_force=True):
    """What the assembler looks at of a version."""
    folder = students / product / str(number)
    folder.mkdir(parents=True)
    record = {"layers": layers, "backbone": {"onnx_sha256": digest}}
    (folder / "bundle.json").write_text(json.dumps(record))
    if in_force:
        (students / product / "current").write_text(f"{number}\n")
    return folder / "bundle.json"


@pytest.fixture
def students(tmp_path):
    return tmp_path / "students"


@pytest.fixture
def written(tmp_path, students):
    """Assembles anew; names of the ensembles."""

    def write():
        models = tmp_path / "models"
        shutil.rmtree(models, ignore_errors=True)
        models.mkdir()
        write_product_ensembles(models, students, BY_DIGEST)
        return sorted(os.listdir(models))

    return write


def blocks(tmp_path, name):
    """The blocks that an ensemble takes of its backbone."""
    text = (tmp_path / "models" / name / "config.pbtxt").read_text()
    config = text_format.Parse(text, ModelConfig())
    names = config.ensemble_scheduling.step[1].output_map
    return {int(name.removeprefix("patch_tokens_")) for name in names}


def test_templates_are_written_for_what_takes_students(tmp_path):
    write_templates(tmp_path, BY_DIGEST.values())
    assert sorted(os.listdir(tmp_path)) == [
        "l2bt_448.pbtxt", "l2bt_448_raw.pbtxt", "l2bt_56.pbtxt", "l2bt_56_raw.pbtxt",
    ]  # fmt: skip


def test_marks_are_those_the_server_replaces(tmp_path):
    assert l2bt_ensembles._PRODUCT_MARK == product_ensembles.PRODUCT_MARK
    assert l2bt_ensembles._LAYER_MARKS == product_ensembles.LAYER_MARKS
    write_templates(tmp_path, [SQUARE])
    text = (tmp_path / "l2bt_448.pbtxt").read_text()
    marks = [text.count(mark) for mark in ("@PRODUCT@", "@LAYER_J@", "@LAYER_K@")]
    assert min(marks) > 0
    assert text.count("@") == 2 * sum(marks)


@pytest.mark.parametrize("layers", [(8, 12), (4, 8), (4, 12)])
@pytest.mark.parametrize("raw", [False, True])
def test_server_and_assembler_make_the_same(tmp_path, students, written, layers, raw):
    """Letter by letter, in whatever order the blocks' names are; and it is what is meant."""
    version(students, "screw", 1, layers=layers)
    assert written() == NAMES
    name = NAMES[raw]
    assembled = (tmp_path / "models" / name / "config.pbtxt").read_text()
    for folder in ("served", "templates", "hidden"):
        (tmp_path / folder).mkdir()
    write_templates(tmp_path / "templates", [SQUARE])
    control = ModelControl(lambda name: None, lambda name: None)
    served = tmp_path / "served"
    ProductEnsembles(served, tmp_path / "templates", tmp_path / "hidden", control).ensure(
        "screw", "448", layers
    )
    assert (served / name / "config.pbtxt").read_text() == assembled
    assert os.listdir(served / name / "1") == os.listdir(tmp_path / "models" / name / "1") == []
    meant = l2bt_config(SQUARE, "screw", layers, raw=raw)
    assert text_format.Parse(assembled, ModelConfig()) == meant


def test_kept_ensemble_takes_further_versions_after_assembling_anew(tmp_path, students, written):
    version(students, "screw", 1)
    written()
    for folder in ("templates", "hidden"):
        (tmp_path / folder).mkdir()
    write_templates(tmp_path / "templates", [SQUARE])
    loaded = []
    ensembles = ProductEnsembles(
        tmp_path / "models", tmp_path / "templates", tmp_path / "hidden",
        ModelControl(loaded.append, pytest.fail),
    )  # fmt: skip
    ensembles.ensure("screw", "448", [8, 12])
    assert loaded == NAMES


def test_ensemble_takes_its_products_blocks(tmp_path, students, written):
    version(students, "screw", 1, layers=(4, 12))
    written()
    assert [blocks(tmp_path, name) for name in NAMES] == [{4, 12}] * 2


def test_product_of_two_sizes_has_ensembles_of_both(students, written):
    version(students, "screw", 1)
    version(students, "screw", 2, digest="d" * 64)
    assert written() == [*NAMES, "l2bt_screw_56", "l2bt_screw_56_raw"]


@pytest.mark.parametrize(
    ("digest", "layers"),
    [("e" * 64, (8, 12)), ("a" * 64, (8, 11)), ("b" * 64, (8, 12)), ("c" * 64, (12, 13))],
)
def test_foreign_product_is_left_out_with_a_warning(students, written, caplog, digest, layers):
    version(students, "foreign", 1, digest=digest, layers=layers)
    version(students, "screw", 1)
    with caplog.at_level(logging.WARNING):
        assert written() == NAMES
    assert "L2BT product foreign has no version that was trained on a backbone" in caplog.text
    assert "screw" not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "5", '"x"', "{}", '{"layers": [8, 12]}',
        '{"layers": [8, 12], "backbone": []}', '{"layers": [8, 12], "backbone": {}}',
        '{"layers": 8, "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [8], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [4, 8, 12], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [12, 8], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [12, 12], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": ["8", "12"], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [8.0, 12.0], "backbone": {"onnx_sha256": "%s"}}',
        '{"layers": [[8], [12]], "backbone": {"onnx_sha256": "%s"}}',
    ],
)  # fmt: skip
def test_damaged_product_is_left_out_with_a_warning(students, written, caplog, content):
    record = version(students, "damaged", 1)
    record.write_text(content.replace("%s", "a" * 64))
    version(students, "screw", 1)
    with caplog.at_level(logging.WARNING):
        assert written() == NAMES
    assert "version 1 of L2BT product damaged cannot be read" in caplog.text


def test_record_that_is_gone_hides_no_other(students, written, caplog):
    version(students, "damaged", 1).unlink()
    version(students, "nut", 1)
    (students / "nut" / "current").unlink()
    (students / "nut" / "current").mkdir()
    version(students, "screw", 1)
    with caplog.at_level(logging.WARNING):
        assert written() == NAMES
    assert "damaged" in caplog.text
    assert "L2BT product nut cannot be read" in caplog.text


def test_damaged_version_does_not_take_its_product_out_of_service(students, written, caplog):
    version(students, "screw", 1).write_text("{}")
    version(students, "screw", 2)
    assert written() == NAMES
    assert "version 1 of L2BT product screw cannot be read" in caplog.text


@pytest.mark.parametrize(("in_force", "block"), [(1, 8), (2, 4), (3, 8)])
def test_blocks_are_those_of_the_version_in_force(
    tmp_path, students, written, caplog, in_force, block
):
    """Of versions that contradict each other only what the line uses counts, whatever is newer."""
    for number, layers in ((1, (8, 12)), (2, (4, 12)), (3, (8, 12))):
        version(students, "screw", number, layers=layers, in_force=number == in_force)
    assert written() == NAMES
    for name in NAMES:
        assert blocks(tmp_path, name) == {block, 12}
    assert "takes other blocks than" in caplog.text


def test_blocks_are_those_of_the_newest_version_if_that_in_force_is_foreign(
    tmp_path, students, written
):
    version(students, "screw", 9, digest="e" * 64)
    version(students, "screw", 8, layers=(4, 8), in_force=False)
    version(students, "screw", 10, layers=(4, 12), in_force=False)
    assert written() == NAMES
    assert blocks(tmp_path, NAMES[0]) == {4, 12}


def test_what_is_no_product_is_passed_over(students, written):
    version(students, "screw", 1)
    version(students, ".0123.partial", 1)  # what a killed writer left
    version(students, "pointless", 1, in_force=False)  # a product has a pointer
    version(students, "a b", 1)
    (students / "screw" / "notes").mkdir()
    (students / "README").write_text("hello")
    assert written() == NAMES


def test_no_products_no_ensembles(students, written):
    assert written() == []
    students.mkdir()
    assert written() == []
