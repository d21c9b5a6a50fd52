"""The program around the measurement: options, exit statuses, output; the run itself as it is."""

from __future__ import annotations

import errno
import json
import os
import socket

import pytest
from small_trees import write_image, write_mask, write_mvtec_category, write_visa

from dinspect_bench.accuracy import command
from dinspect_bench.accuracy.command import build_parser, main
from dinspect_bench.accuracy.run import DataChoices, prepare_categories
from dinspect_bench.datasets.layouts import LOADERS, load_dataset
from dinspect_bench.errors import AccuracyError, DatasetError


@pytest.fixture
def folder(tmp_path):
    return write_mvtec_category(tmp_path / "nut")


@pytest.fixture
def nowhere():
    """Address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_defaults_are_one_shot_of_anomaly_dino_at_448_px():
    args = build_parser().parse_args(["data"])
    assert (args.method, args.shots, args.seeds) == (["anomaly_dino"], [1], [0, 1, 2])
    assert (args.selection, args.resolution, args.epochs) == (None, 448, 50)
    assert (args.preprocessing, args.categories, args.layout) == (None, None, None)
    assert (args.keep, args.json, args.one_geometry) == (False, False, False)


def test_shots_are_numbers_or_all():
    args = build_parser().parse_args(["data", "--shots", "1", "16", "full"])
    assert args.shots == [1, 16, None]
    for wrong in ("0", "-1", "all", "1.5"):
        with pytest.raises(SystemExit) as caught:
            build_parser().parse_args(["data", "--shots", wrong])
        assert caught.value.code == 2


def test_server_is_named_or_started(monkeypatch):
    monkeypatch.setenv("DINSPECT_URL", "plant:8001")
    assert build_parser().parse_args(["data"]).url == "plant:8001"
    with pytest.raises(SystemExit):
        build_parser().parse_args(["data", "--url", "plant:8001", "--serve", "repository"])


def test_layouts_are_those_there_are_loaders_for():
    assert set(command.LAYOUTS) == set(LOADERS)


def test_missing_data_set_is_told_with_status_2(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bench-accuracy: there is no folder")
    assert captured.out == ""


def test_absent_server_gives_status_3(folder, nowhere, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert main([str(folder), "--seeds", "0", "--url", nowhere, "--output", str(output)]) == 3
    assert nowhere in capsys.readouterr().err
    assert not output.exists()


def test_too_many_shots_are_told_before_the_server_is_asked(folder, nowhere, tmp_path, capsys):
    output = str(tmp_path / "out.jsonl")
    assert main([str(folder), "--shots", "2", "--url", nowhere, "--output", output]) == 2
    assert "slice 2 of 2 shots needs 6 good images" in capsys.readouterr().err


def test_files_that_are_passed_over_are_told(folder, nowhere, tmp_path, capsys):
    (folder / "train/good/007.gif").write_bytes(b"GIF89a")
    output = str(tmp_path / "out.jsonl")
    assert main([str(folder), "--seeds", "0", "--url", nowhere, "--output", output]) == 3
    told = capsys.readouterr().err
    assert "nut: 1 files are passed over, whose ending is no image's: train/good/007.gif" in told


def test_mixed_geometry_is_told_with_status_2(folder, nowhere, capsys):
    write_image(folder / "test/good/000.png", size=(60, 60))
    assert main([str(folder), "--url", nowhere]) == 2
    assert "--one-geometry" in capsys.readouterr().err


def test_masks_are_read_before_the_server_is_asked(folder, nowhere, capsys):
    mask = folder / "ground_truth/crack/001_mask.png"
    write_mask(mask, size=(20, 60))
    assert main([str(folder), "--url", nowhere]) == 2
    told = capsys.readouterr().err
    assert f"mask {mask} is 60 x 20 px, its image" in told
    assert "test/crack/001.png 60 x 40 px" in told
    mask.write_bytes(mask.read_bytes()[:-40])
    assert main([str(folder), "--url", nowhere]) == 2
    assert f"cannot read mask {mask}" in capsys.readouterr().err


def test_status_is_that_of_what_went_wrong(folder, monkeypatch, capsys):
    for status in (2, 3):

        def fails(args, status=status):
            raise AccuracyError("part.png was not inspected", exit_status=status)

        monkeypatch.setattr(command, "run_benchmark", fails)
        assert main([str(folder)]) == status
        assert capsys.readouterr().err == "bench-accuracy: part.png was not inspected\n"


def test_full_disk_is_told_with_its_file_and_status_2(folder, monkeypatch, capsys):
    def fills(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/parts_work/maps/00001.npy")

    monkeypatch.setattr(command, "run_benchmark", fills)
    assert main([str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "bench-accuracy: cannot read or write out/parts_work/maps/00001.npy: No space left"
    )
    assert "goes on where it was" in told


def test_interruption_says_how_to_go_on(folder, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_benchmark", interrupted)
    assert main([str(folder)]) == 130
    assert "goes on where it was" in capsys.readouterr().err


def test_missing_package_is_named_with_its_extra(folder, monkeypatch, capsys):
    def lacks(args):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(command, "run_benchmark", lacks)
    assert main([str(folder), "--method", "l2bt"]) == 2
    assert "pip install '.[bench,export]'" in capsys.readouterr().err


def test_what_nobody_expected_is_not_hidden(folder, monkeypatch):
    def breaks(args):
        raise ZeroDivisionError

    monkeypatch.setattr(command, "run_benchmark", breaks)
    with pytest.raises(ZeroDivisionError):
        main([str(folder)])


def test_json_is_the_records(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "run_benchmark", lambda args: [{"record": "accuracy", "seed": 0}])
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"record": "accuracy", "seed": 0}]


def test_categories_are_prepared_as_it_is_said(tmp_path):
    dataset = load_dataset(write_visa(tmp_path))
    said = DataChoices(textures=("pcb1",), rotated=("candle",))
    candle, pcb = prepare_categories(dataset, said)
    assert (candle.texture, candle.rotated) == (False, True)
    assert (pcb.texture, pcb.rotated) == (True, False)
    with pytest.raises(DatasetError, match="no category fryum"):
        prepare_categories(dataset, DataChoices(textures=("fryum",)))


def test_known_textures_stay_so(tmp_path):
    write_mvtec_category(tmp_path / "carpet")
    write_mvtec_category(tmp_path / "screw")
    carpet, screw = prepare_categories(load_dataset(tmp_path), DataChoices())
    assert (carpet.texture, carpet.rotated) == (True, False)
    assert (screw.texture, screw.rotated) == (False, True)


def test_images_of_another_geometry_are_left_out_only_if_it_is_said(folder):
    write_image(folder / "train/good/000.png", size=(60, 60))
    dataset = load_dataset(folder)
    with pytest.raises(DatasetError, match="another aspect ratio"):
        prepare_categories(dataset, DataChoices())
    (category,) = prepare_categories(dataset, DataChoices(one_geometry=True))
    assert len(category.left_out) == 1
