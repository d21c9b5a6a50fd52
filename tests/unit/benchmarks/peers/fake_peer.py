"""A peer of a few lines, run as a real process: it speaks the real protocol and infers nothing.

Stands in for anomalib, which tests cannot count on. ``python fake_peer.py [RUNNER]`` takes the
place of the interpreter of the peers' environment with its runner.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

RUNNER = Path(__file__).parents[4] / "benchmarks" / "dinspect_bench" / "peers" / "runner"
sys.path.insert(0, str(RUNNER))

from peer_protocol import PreparedSystem, serve  # noqa: E402

LATENCY_NS = 5_000_000


def prepare(system, settings):
    if system == "broken":
        raise ModuleNotFoundError("No module named 'anomalib'")
    if system == "export":
        if settings["model"]["method"] == "unknown":
            raise RuntimeError("no such graph")
        return PreparedSystem({"onnx": "/files/model.onnx", "openvino": "/files/model.xml"}, None)
    sys.stdout.write("a library says hello on standard output\n")
    details = {"runtime": f"fake {system}", "precision": "fp32", "settings": settings}
    return PreparedSystem(
        details | {"omp": os.environ.get("OMP_WAIT_POLICY")}, RUNS.get(system, steady)
    )


def steady(path):
    sys.stdout.write("a library chatters\n")
    return LATENCY_NS, float(len(Path(path).name))


def raises(path):
    raise ValueError(f"cannot read {Path(path).name}")


def dies(path):
    sys.stderr.write("Killed for its memory\n\n")
    os._exit(3)


def hangs(path):
    time.sleep(60)


def unscored(path):
    return LATENCY_NS, None


RUNS = {"raises": raises, "dies": dies, "hangs": hangs, "pytorch_backbone": unscored}

if __name__ == "__main__":
    sys.exit(serve(prepare))
