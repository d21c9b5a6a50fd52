"""`dinspect build`: what is made, what is left alone, and what is left behind when it fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from descriptions import (
    CHECK,
    ENGINE,
    ENGINE_FP16,
    GRAPH_FP16,
    GRAPH_FP32,
    SMALL,
    actions,
    dinspect,
    write_description,
)

from dinspect_export import engine_build, manifest, recipes
from dinspect_export.artefact_store import exclusive
from dinspect_export.build import build, cache_key, check
from dinspect_export.description import read_description
from dinspect_export.manifest import EngineManifest, read_artefact

ALL = [GRAPH_FP32, GRAPH_FP16, ENGINE_FP16]


@pytest.fixture(scope="module")
def once_built(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("built")
    outcomes = list(build(read_description(write_description(folder))))
    assert [(o.name, o.action, o.reasons) for o in outcomes] == [
        (name, "built", ["not built yet"]) for name in ALL
    ]
    return folder


@pytest.fixture
def built(once_built, tmp_path):
    """A copy of a finished build; returns its description's path."""
    shutil.copytree(once_built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "engines.toml"


def stale(path):
    return {o.name: o.reasons for o in check(read_description(path)) if o.action == "stale"}


def rebuilt(path, **options):
    return [o.name for o in build(read_description(path), **options) if o.action == "built"]


def test_what_is_current_is_left_alone(built):
    before = {path: path.stat().st_mtime_ns for path in built.parent.rglob("*.*")}
    assert stale(built) == {}
    assert rebuilt(built) == []
    assert {path: path.stat().st_mtime_ns for path in built.parent.rglob("*.*")} == before


def test_command_tells_and_builds(built):
    assert set(actions(built).values()) == {"current"}
    (built.parent / "build" / "engines" / ENGINE_FP16 / "model.plan").unlink()
    told = dinspect("build", built, "--check")
    assert told.returncode == 1
    assert f"stale    {ENGINE_FP16}" in told.stdout
    assert "model.plan is missing" in told.stdout
    assert actions(built, "--check") == {
        GRAPH_FP32: "current", GRAPH_FP16: "current", ENGINE_FP16: "stale"
    }  # fmt: skip
    assert actions(built)[ENGINE_FP16] == "built"
    assert dinspect("build", built, "--check").returncode == 0


def test_telling_takes_no_heavy_import(built):
    code = (
        "import sys\nfrom pathlib import Path\nfrom dinspect_export.build import build, check\n"
        "from dinspect_export.description import read_description\n"
        f"description = read_description(Path({str(built)!r}))\n"
        "assert all(o.action == 'current' for o in [*check(description), *build(description)])\n"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'polygraphy')\n"
        "sys.exit([name for name in heavy if name in sys.modules] or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_force_makes_everything(built):
    assert rebuilt(built, force=True) == ALL


def test_other_weights_make_everything_stale(built, tmp_path):
    from dinspect_export.checkpoints import load_checkpoint

    state = dict(load_checkpoint("packaged", "dinov2_vits14", tmp_path).state_dict)
    torch.save(state, tmp_path / "weights.pth")
    text = SMALL.replace('"packaged"', '"weights.pth"')
    write_description(tmp_path, text)
    assert rebuilt(built) == [GRAPH_FP32, GRAPH_FP16]  # the same numbers, so the engine stays
    state["blocks.0.attn.proj.bias"] = state["blocks.0.attn.proj.bias"] + 1e-3
    torch.save(state, tmp_path / "weights.pth")
    reasons = stale(built)
    assert list(reasons) == ALL
    assert reasons[GRAPH_FP32][0].startswith("weights_sha256: ")
    assert reasons[ENGINE_FP16] == [f"its graph {GRAPH_FP16} is stale"]
    assert rebuilt(built) == ALL


def test_another_precision_is_made_beside_the_others(built):
    write_description(built.parent, SMALL + 'precision = "fp32"\n')
    other = f"{GRAPH_FP32}.tensorrt-rtx"
    assert stale(built) == {other: ["not built yet"]}
    assert rebuilt(built) == [other]


@pytest.mark.parametrize(
    ("package", "remade"),
    [
        ("tensorrt-rtx", [ENGINE_FP16]),
        ("torch", [GRAPH_FP32, GRAPH_FP16]),
        ("onnxscript", [GRAPH_FP32, GRAPH_FP16]),
        ("dinspect", ALL),
        ("openvino", []),
    ],
)
def test_package_version_remakes_what_it_has_a_part_in(built, monkeypatch, package, remade):
    def version(name):
        return "99.0" if name == package else installed(name)

    installed = manifest.version
    monkeypatch.setattr(manifest, "version", version)
    told = stale(built)
    for name in remade:
        if name in told and told[name] != [f"its graph {GRAPH_FP16} is stale"]:
            assert told[name] == [f"versions {package}: {installed(package)} -> 99.0"]
    assert set(remade) <= set(told)
    assert rebuilt(built) == remade
    assert stale(built) == {}


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        (('["8.6"]', '["8.6", "8.9"]'), [ENGINE_FP16]),
        (("layers = [1]", "layers = [1]\nbatch = {opt = 2}"), [ENGINE_FP16]),
        (("cell000[1-2]", "cell000[1-3]"), [GRAPH_FP32, GRAPH_FP16]),
    ],
)
def test_description_remakes_what_it_changes(built, change, remade):
    write_description(built.parent, SMALL.replace(*change))
    assert rebuilt(built) == remade


@pytest.mark.parametrize(
    ("module", "remade"),
    [("onnx_export", [GRAPH_FP32, GRAPH_FP16]), ("engine_build", [ENGINE_FP16])],
)
def test_code_remakes_what_it_makes(built, monkeypatch, module, remade):
    real = recipes.code_sha256
    for place in (recipes, engine_build):
        monkeypatch.setattr(
            place, "code_sha256", lambda name: "0" * 64 if name == module else real(name)
        )
    assert rebuilt(built) == remade


def test_code_digest_follows_imports(tmp_path, monkeypatch):
    for name in ("recipes", "first", "second", "apart"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "first.py").write_text("def f():\n    from dinspect_export.second import g\n")
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "recipes.py"))
    before = recipes.code_sha256("first")
    (tmp_path / "apart.py").write_text("x = 1\n")
    assert recipes.code_sha256("first") == before
    (tmp_path / "second.py").write_text("x = 1\n")
    assert recipes.code_sha256("first") != before


@pytest.mark.parametrize("damage", ["append", "no manifest", "text"])
def test_damaged_artefact_is_made_again(built, damage):
    folder = built.parent / "build" / "artefacts" / GRAPH_FP16
    if damage == "append":
        with (folder / "model.onnx").open("ab") as file:
            file.write(b"\0")
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert GRAPH_FP16 in stale(built)
    assert rebuilt(built) == [GRAPH_FP16]


def test_what_is_no_longer_described_is_told_and_pruned_on_demand(built):
    write_description(built.parent, SMALL.replace("[56]", "[28]").replace(ENGINE, ""))
    done = dinspect("build", built)
    assert done.returncode == 0, done.stderr
    apart = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if "apart" in line]
    assert apart == ALL
    assert dinspect("build", built, "--prune").stdout.count("removed  ") == 3
    described = [path.name for path in (built.parent / "build").glob("*/[!.]*")]
    assert sorted(described) == ["dinov2_vits14_28_layers_1", "dinov2_vits14_28_layers_1_fp16"]
    assert stale(built) == {}


def test_export_waits_for_a_build(built):
    """Both write into one folder, so both take its lock."""
    folder = built.parent / "build" / "artefacts"
    cell = CHECK.split('images = ["')[1].split('"')[0]
    with exclusive(folder):
        process = subprocess.Popen(
            [sys.executable, "-m", "dinspect_client.main", "export", "--weights", "packaged",
             "--size", "28", "--layers", "1", "--check-images", cell, "--output-dir", str(folder)],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "another build is at work" in line:
                break
        assert process.poll() is None
        assert not (folder / "dinov2_vits14_28_layers_1").exists()
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert (folder / "dinov2_vits14_28_layers_1" / "manifest.json").is_file()


def test_cache_key_changes_with_what_is_described(built):
    key = cache_key(read_description(built))
    assert key == cache_key(read_description(built))
    assert dinspect("build", built, "--cache-key").stdout.strip() == key
    write_description(built.parent, SMALL.replace("8.6", "8.9"))
    other = cache_key(read_description(built))
    write_description(built.parent, SMALL.replace("cell000[1-2]", "cell000[1-3]"))
    assert len({key, other, cache_key(read_description(built))}) == 3


def test_engine_record_tells_what_it_is(built):
    artefact = read_artefact(built.parent / "build" / "engines" / ENGINE_FP16)
    record = artefact.manifest
    assert isinstance(record, EngineManifest)
    graph = read_artefact(built.parent / "build" / "artefacts" / GRAPH_FP16).manifest
    assert record.onnx_sha256 == graph.files["model.onnx"]
    assert record.weights_sha256 == graph.weights_sha256
    assert record.profile == {"pixels": [[n, 56, 56, 3] for n in (1, 4, 8)]}
    assert record.inspection["targets"] == record.compute_capabilities == ["8.6"]
    assert record.versions["tensorrt-rtx"] == manifest.version("tensorrt-rtx")
    assert record.versions["cuda"].isdigit()
    assert record.proof == []  # no GPU in these tests
    plan = (artefact.path / "model.plan").read_bytes()
    assert record.inspection["size_bytes"] == len(plan)
    assert plan[:4] == b"vtrt"


def test_killed_build_leaves_nothing_that_counts(tmp_path):
    path = write_description(tmp_path)
    command = [sys.executable, "-m", "dinspect_client.main", "build", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    artefacts = tmp_path / "build" / "artefacts"
    deadline = time.monotonic() + 100
    while not list(artefacts.glob(".*.partial")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(stale(path)) == ALL
    assert list(artefacts.glob(".*.partial"))
    done = dinspect("build", path)
    assert done.returncode == 0, done.stderr
    assert "left behind by a build that was killed" in done.stderr
    assert not list((tmp_path / "build").rglob(".*.partial"))
    assert stale(path) == {}


def test_two_builds_at_once_make_it_once(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    path = write_description(tmp_path)
    command = [sys.executable, "-m", "dinspect_client.main", "build", str(path), "--json"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    done = [[outcome["action"] for outcome in json.loads(stdout)] for stdout, _ in answers]
    assert sorted(done) == [["built"] * 3, ["current"] * 3]
    assert any("another build is at work" in stderr for _, stderr in answers)
    assert stale(path) == {}


def test_file_that_nobody_may_read_is_named(built, monkeypatch, capsys):
    """As any user but root would see it; root may read everything."""
    from dinspect_client.main import main

    real = Path.open

    def refuse(self, *arguments, **options):
        if self.name == "cell0001.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(manifest.Path, "open", refuse)
    assert main(["build", str(built), "--check"]) == 2
    assert "cell0001.png" in capsys.readouterr().err


def in_a_small_disk(folder, size, *command):
    """Run a command with a tmpfs of ``size`` bytes at ``folder/build``."""
    build_folder = folder / "build"
    build_folder.mkdir()
    script = f'mount -t tmpfs -o size={size} none "{build_folder}" && "$@"; code=$?; find "{build_folder}" -type f; exit $code'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "-", *command],
        capture_output=True,
        text=True,
        timeout=200,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("finished", [0, 2])
def test_full_disk(once_built, tmp_path, finished):
    """The first graph or the engine does not fit; what was finished before stays."""
    folders = [once_built / "build" / "artefacts" / name for name in (GRAPH_FP32, GRAPH_FP16)]
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
    size = sum(sizes) + 1_000_000 if finished else sizes[0] // 2
    path = write_description(tmp_path)
    done = in_a_small_disk(
        tmp_path, size, sys.executable, "-m", "dinspect_client.main", "build", str(path)
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device; nothing was left behind" in done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("/")]
    assert len(found) == 3 * finished + 2, found  # three files each, and the locks
    assert not any("partial" in line for line in found)


def test_graph_made_elsewhere_gets_an_engine(built):
    folder = built.parent
    source = folder / "build" / "artefacts" / GRAPH_FP16 / "model.onnx"
    shutil.copy(source, folder / "theirs.onnx")
    write_description(folder, CHECK + ENGINE + '[[graph]]\nname = "theirs"\nfile = "theirs.onnx"\n')
    assert rebuilt(built) == ["theirs.tensorrt-rtx"]
    assert rebuilt(built) == []
    (folder / "theirs.onnx").unlink()
    done = dinspect("build", built)
    assert done.returncode == 2
    assert "there is no file" in done.stderr
