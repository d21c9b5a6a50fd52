"""The workflows say what our commands accept, and the one that needs no GPU is run, step by step.

What a runner does beside the steps (actions, caches, containers) is checked as data, not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_lines import ROOT, commands, is_make_target, parse_dinspect
from unit.export.descriptions import ENGINE_FP16, GRAPH_FP16, GRAPH_FP32, write_description

from dinspect_export.description import read_description

WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
CPU, GPU = "engines-cpu", "engines-gpu"
ON = True  # what YAML 1.1 reads the key `on` as
ALL = [GRAPH_FP32, GRAPH_FP16, ENGINE_FP16]
# As GitHub starts a script whose shell is said to be bash; without a word there is no pipefail.
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
INSTALLS = ["Install"]

each_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def steps_of(name):
    (job,) = WORKFLOWS[name]["jobs"].values()
    return job["steps"]


def scripts_of(name):
    return [step["run"] for step in steps_of(name) if "run" in step]


def dinspect_calls(name):
    return [call for script in scripts_of(name) for call in commands("dinspect", script)]


def step_named(name, words):
    (step,) = [step for step in steps_of(name) if words in step.get("name", "")]
    return step


def lines(text):
    return [line.strip() for line in text.splitlines()]


def test_workflows_were_found():
    assert sorted(WORKFLOWS) == [CPU, GPU]


@each_workflow
def test_commands_are_accepted(name):
    scripts = "\n".join(scripts_of(name))
    calls = dinspect_calls(name)
    assert len(calls) == scripts.count("dinspect ")  # none hides from the test
    for call in calls:
        parse_dinspect(call)
    targets = [call[0] for call in commands("make", scripts)]
    assert targets == ["install"]
    assert all(map(is_make_target, targets))


@each_workflow
def test_one_description_is_built_checked_and_verified(name):
    calls = dinspect_calls(name)
    (path,) = {parse_dinspect(call).description for call in calls}
    described = read_description(ROOT / path)
    assert described.engine
    assert {entry.target == "tensorrt" for entry in described.engine} == {name == GPU}
    rest = [[word for word in call if word != str(path)] for call in calls]
    told = ["build", "--check"]
    assert rest == [
        ["build", "--cache-key"], told, ["build"], told, ["verify", "--json"]
    ]  # fmt: skip


@each_workflow
def test_caches_are_what_the_build_writes(name):
    described = read_description(ROOT / parse_dinspect(dinspect_calls(name)[0]).description)
    timings = [described.base / e.timing_cache for e in described.engine if e.timing_cache]
    steps = steps_of(name)
    weights, built = [step for step in steps if step.get("uses", "").startswith("actions/cache@")]
    for step, written in (
        (weights, [described.weights_dir]),
        (built, [described.artefacts_dir, described.engines_dir, *timings]),
    ):
        cached = [(ROOT / path).resolve() for path in lines(step["with"]["path"])]
        assert cached == [path.resolve() for path in written]
        key, prefix = step["with"]["key"], step["with"]["restore-keys"]
        assert key.startswith(prefix)
        assert key != prefix
    # The key is a digest over the weights, and what was built is found by the key.
    assert "${{ steps.key.outputs.digest }}" in built["with"]["key"]
    key, build = step_named(name, "cache key"), step_named(name, "Build")
    order = [steps.index(step) for step in (weights, key, built, build)]
    assert order == sorted(order)


@each_workflow
def test_outputs_are_written_before_they_are_read(name):
    written = set()
    for step in steps_of(name):
        read = set(re.findall(r"steps\.(\w+\.outputs\.\w+)", json.dumps(step)))
        assert read <= written, step
        for output in re.findall(r'echo "(\w+)=.*" >> "\$GITHUB_OUTPUT"', step.get("run", "")):
            written.add(f"{step['id']}.outputs.{output}")
    assert "key.outputs.digest" in written


@each_workflow
def test_shell_rights_time_and_actions_are_stated(name):
    workflow = WORKFLOWS[name]
    assert workflow["defaults"] == {"run": {"shell": BASH[0]}}
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 240
    used = [step["uses"] for step in steps_of(name) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", action), action


@each_workflow
def test_no_step_is_excused_and_no_script_is_filled_in(name):
    """Expressions in scripts could be made to run anything, and could not be run here."""
    assert "continue-on-error" not in json.dumps(WORKFLOWS[name])
    for step in steps_of(name):
        if "run" in step:
            assert "${{" not in step["run"], step
            assert "if" not in step, step


@each_workflow
def test_workflow_starts_when_what_it_depends_on_changes(name):
    events = WORKFLOWS[name][ON]
    # A machine of one's own must not run what strangers propose.
    hosted = {"pull_request", "schedule"} if name == CPU else set()
    assert set(events) == {"push", "workflow_dispatch"} | hosted
    filters = [event["paths"] for event in events.values() if event and "paths" in event]
    assert all(paths == filters[0] for paths in filters)
    description = str(parse_dinspect(dinspect_calls(name)[0]).description)
    needed = {
        "export/**",
        "client/**",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        f".github/workflows/{name}.yml",
    }
    assert set(filters[0]) == needed | {description}
    for pattern in filters[0]:
        assert list(ROOT.glob(pattern)), pattern


class Runner:
    """Runs steps in a folder as GitHub does, with the commands of this Python first on the path."""

    def __init__(self, folder):
        self.folder = folder
        self._files = {
            key: folder / key.lower()
            for key in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
        }

    def run(self, step):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        files = {key: str(file) for key, file in self._files.items()}
        return subprocess.run(
            [*BASH, "-c", step["run"]],
            capture_output=True,
            cwd=self.folder,
            env=os.environ | files | {"PATH": path},
            text=True,
            timeout=200,
        )

    @property
    def outputs(self):
        return dict(line.split("=", 1) for line in lines(self._files["GITHUB_OUTPUT"].read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole CPU workflow but its installation, on a description that takes seconds."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("workflow")
    write_description(folder)
    runner = Runner(folder)
    steps = [step for step in steps_of(CPU) if "run" in step]
    installing = [step["name"] for step in steps if step["name"] in INSTALLS]
    assert installing == INSTALLS
    done = {step["name"]: runner.run(step) for step in steps if step["name"] not in INSTALLS}
    assert {name: step.returncode for name, step in done.items()} == dict.fromkeys(done, 0), done
    assert len(done) == len(steps) - 1 == 5
    return runner, done


@pytest.fixture
def damaged(finished, tmp_path):
    """A copy of a finished run in which an engine was damaged."""
    shutil.copytree(finished[0].folder, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "build" / "engines" / ENGINE_FP16 / "model.plan").open("ab") as file:
        file.write(b"\0")
    return Runner(tmp_path)


def actions_in(text):
    return {line.split()[1].rstrip(":"): line.split()[0] for line in text.splitlines()}


def test_run_builds_everything_once(finished):
    runner, done = finished
    assert actions_in(done["Tell what is stale"].stdout) == dict.fromkeys(ALL, "stale")
    assert actions_in(done["Build"].stdout) == dict.fromkeys(ALL, "built")
    for again in (done["Require that all is current"], runner.run(step_named(CPU, "Build"))):
        assert actions_in(again.stdout) == dict.fromkeys(ALL, "current")


def test_run_names_the_cache(finished):
    runner, _ = finished
    assert re.fullmatch("[0-9a-f]{64}", runner.outputs["digest"])


def test_run_verifies(finished):
    verdicts = json.loads((finished[0].folder / "build" / "verification.json").read_text())
    assert {verdict["artefact"] for verdict in verdicts} == set(ALL)
    proven = [verdict for verdict in verdicts if verdict["proof"]]
    assert not any(verdict["proof"]["failures"] for verdict in proven)
    agreeing = {(verdict["artefact"], verdict["runtime"]) for verdict in proven}
    assert {(GRAPH_FP32, "onnxruntime"), (GRAPH_FP32, "openvino f32")} <= agreeing
    assert (GRAPH_FP16, "onnxruntime") in agreeing


def test_records_are_kept_and_weights_are_not(finished):
    kept = lines(step_named(CPU, "Keep the records")["with"]["path"])
    found = [path for pattern in kept for path in finished[0].folder.glob(pattern)]
    assert sorted(path.name for path in found) == ["manifest.json"] * 3 + ["verification.json"]


def test_damage_is_told_stops_the_gate_and_is_repaired(damaged):
    gate = step_named(CPU, "Require that all is current")
    told = damaged.run(step_named(CPU, "Tell what is stale"))
    assert told.returncode == 0
    assert f"stale    {ENGINE_FP16}" in told.stdout
    assert damaged.run(gate).returncode == 1
    assert damaged.run(step_named(CPU, "Verify")).returncode == 2
    assert damaged.run(step_named(CPU, "Build")).returncode == 0
    assert damaged.run(gate).returncode == 0


@pytest.mark.parametrize("words", ["cache key", "Tell what is stale"])
def test_description_that_cannot_be_used_stops_at_once(tmp_path, words):
    write_description(tmp_path, "[check]\nimages = []\n")
    done = Runner(tmp_path).run(step_named(CPU, words))
    assert done.returncode != 0
    assert "dinspect: error" in done.stderr
    assert not (tmp_path / "github_output").exists()


def test_engine_that_was_not_run_stops_the_gpu_workflow(finished, tmp_path):
    verdicts = json.loads((finished[0].folder / "build" / "verification.json").read_text())
    ran = [verdict for verdict in verdicts if verdict["proof"]]
    unable = verdicts[0] | {"proof": None, "not_run": "no GPU"}
    for verification, status in ((ran, 0), ([*ran, unable], 1)):
        file = tmp_path / "build" / "tensorrt" / "verification.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(verification, indent=2))
        done = Runner(tmp_path).run(step_named(GPU, "Require that all was run"))
        assert done.returncode == status, done.stdout
