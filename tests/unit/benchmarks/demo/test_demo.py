"""The demo's command and what needs no server; the whole of it is an integration test."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dinspect_bench.commands import DemoCommand
from dinspect_bench.demo import inspected_split
from dinspect_bench.demo import run as demo_run
from dinspect_bench.demo.run import DemoSettings, run_demo
from dinspect_bench.errors import BenchmarkError, DatasetError, DemoError, MissingDependencyError
from dinspect_bench.progress import Stages


def arguments(*words):
    parser = argparse.ArgumentParser()
    DemoCommand().add_arguments(parser)
    return parser.parse_args(words)


def every_error():
    waiting, found = [BenchmarkError], []
    while waiting:
        error = waiting.pop()
        found.append(error)
        waiting += error.__subclasses__()
    return found


def test_defaults_are_the_folders_of_make_demo():
    args = arguments()
    assert (str(args.output), str(args.build)) == ("out/demo", "build")


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys, dinspect_bench.commands; "
        "heavy = {'torch', 'sklearn', 'numpy', 'jinja2', 'PIL', 'tritonclient'}; "
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dinspect_bench.demo.run", None)
    with pytest.raises(MissingDependencyError, match=r"dinspect\[demo\]"):
        DemoCommand().run(arguments())


def test_a_failed_demo_leaves_no_result_of_an_earlier_one(tmp_path, monkeypatch):
    settings = DemoSettings(tmp_path / "out", tmp_path / "build")
    settings.output.mkdir()
    for name in (demo_run.RESULT_FILE, demo_run.REPORT_FILE):
        (settings.output / name).write_text("old")

    def broken():
        raise DatasetError("no data")

    monkeypatch.setattr(demo_run, "load_elpv", broken)
    with pytest.raises(DatasetError):
        run_demo(settings)
    assert list(settings.output.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "threshold", "accepted"),
    [(3, 0.5, True), (3, 0.5 + 1e-8, True), (2, 0.5, False), (3, 0.51, False)],
)
def test_only_the_bundle_just_enrolled_may_answer(enrolled, version, threshold, accepted):
    answer = SimpleNamespace(bundle_version=version, threshold=threshold)
    if accepted:
        inspected_split._check_bundle("images/a.png", answer, enrolled)
    else:
        with pytest.raises(DemoError, match=r"images/a\.png was answered by version"):
            inspected_split._check_bundle("images/a.png", answer, enrolled)


def test_stages_are_numbered_and_timed():
    ticks = iter([0.0, 1.5, 2.0, 2.25])
    stream = io.StringIO()
    stages = Stages(2, stream, clock_s=lambda: next(ticks))
    with stages.stage("export", "exporting"):
        pass
    with stages.stage("serve", "serving"):
        pass
    assert stages.seconds == {"export": 1.5, "serve": 0.25}
    assert stream.getvalue().splitlines() == [
        "[1/2] exporting",
        "      export took 1.5 s",
        "[2/2] serving",
        "      serve took 0.2 s",
    ]


def test_a_stage_that_fails_is_not_recorded():
    stages = Stages(1, io.StringIO())
    with pytest.raises(ValueError, match="broken"), stages.stage("export", "exporting"):
        raise ValueError("broken")
    assert stages.seconds == {}


def test_every_error_is_documented_in_the_tree_and_has_a_status():
    import dinspect_bench.errors

    tree = dinspect_bench.errors.__doc__
    for error in every_error():
        assert error.__name__ in tree
        assert error.exit_status in (2, 3)
