"""All that is measured of this processor on one page: the papers' latency tables, and the peers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinspect_bench.files import write_text_atomically
from dinspect_bench.studies.latency_protocol import run_latency_study
from dinspect_bench.studies.peers import run_peers_study

PRECISIONS = ("auto", "bf16", "int8")
"""Of our server beside the peers: what it takes by itself, and what is faster when asked for."""


def run_cpu_study(
    build_dir: Path,
    output: Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    latency_options: Mapping[str, Any] | None = None,
    peers_options: Mapping[str, Any] | None = None,
) -> str:
    """Measure the latency tables and the peers, and write both pages as one.

    What is on record of this processor is not measured again; see the two studies.

    Args:
        build_dir: Where our backbones are exported to, unless they are there.
        output: The page; the two studies' own pages and records go beside it.
        precisions: Of our server beside the peers.
        latency_options: Further arguments of `run_latency_study`.
        peers_options: Further arguments of `run_peers_study`.

    Returns:
        The page.

    Raises:
        BenchmarkError: As the two studies do.
    """
    folder = output.parent
    tables = [
        run_latency_study(build_dir, folder / "latency.md", **(latency_options or {})),
        run_peers_study(
            build_dir, folder / "peers.md", precisions=precisions, **(peers_options or {})
        ),
    ]
    page = "\n".join(["# What was measured on this processor\n", *map(_one_level_down, tables)])
    write_text_atomically(output, page)
    return page


def _one_level_down(page: str) -> str:
    """The same page with its headings a level lower."""
    return re.sub(r"^(#+ )", r"#\1", page, flags=re.MULTILINE)
