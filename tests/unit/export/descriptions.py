"""Small descriptions for tests: one block of the packaged backbone, so that a build takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECK = """
[check]
references = ["package:elpv_dataset/data/images/cell000[5-6].png"]
images = ["package:elpv_dataset/data/images/cell000[1-2].png"]
"""
BACKBONE = """
[[backbone]]
variant = "dinov2_vits14"
weights = "packaged"
sizes = [56]
layers = [1]
"""
ENGINE = """
[[engine]]
target = "tensorrt-rtx"
compute_capabilities = ["8.6"]
"""
GRAPH_FP32 = "dinov2_vits14_56_layers_1"
GRAPH_FP16 = f"{GRAPH_FP32}_fp16"
ENGINE_FP16 = f"{GRAPH_FP16}.tensorrt-rtx"
SMALL = CHECK + BACKBONE + ENGINE


def write_description(folder: Path, text: str = SMALL) -> Path:
    """Write ``engines.toml`` into a folder."""
    path = folder / "engines.toml"
    path.write_text(text, encoding="utf-8")
    return path


def dinspect(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dinspect_client.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )


def actions(description: Path, *flags: str) -> dict[str, str]:
    """Artefact to what ``dinspect build`` did with it."""
    done = dinspect("build", description, "--json", *flags)
    assert done.returncode in (0, 1), done.stderr
    return {outcome["name"]: outcome["action"] for outcome in json.loads(done.stdout)}
