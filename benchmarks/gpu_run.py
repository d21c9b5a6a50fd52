"""Parity, engines, latency and peaks of one NVIDIA GPU, without a network, in one command.

Run it in a checkout, with the Python that has PyTorch for the GPU; nothing need be installed::

    python benchmarks/gpu_run.py --wheels DIR --output docs/results

It goes step by step, each within its time limit, and goes on where it was when started again.
docs/engines.md has the wheels it wants; ``--device cpu`` tries it as far as a CPU goes.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(_ROOT / name) for name in ("benchmarks", "export", "client", "model_repository")
]

from dinspect_bench.gpu.command import main  # noqa: E402  the path comes first

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve()))
