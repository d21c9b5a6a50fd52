"""Peers made ready: the model exported once, then one process for each way to run it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dinspect_bench.errors import PeerError
from dinspect_bench.peers.process import PeerProcess
from dinspect_bench.peers.rounds import NotRun
from dinspect_bench.peers.systems import PeerSystem

EXPORT = "export"


@dataclass
class StartedPeers:
    """What came of starting them.

    Attributes:
        ready: Processes that can be asked for samples.
        details: Name to what the process says of itself, of those that are ready.
        not_run: Name to why it cannot be measured, of the others.
    """

    ready: list[PeerProcess] = field(default_factory=list)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_run: dict[str, NotRun] = field(default_factory=dict)


@contextlib.contextmanager
def started_peers(
    peers: Sequence[PeerSystem], model: Mapping[str, Any], command: Sequence[str], folder: Path
) -> Iterator[StartedPeers]:
    """Export the model and start every peer; one that cannot be does not keep the others.

    Args:
        peers: What is to be run.
        model: As `systems` describes it, for the export.
        command: What runs a peer.
        folder: Where exported files and logs go.
    """
    started = StartedPeers()
    files = _export(model, command, folder) if any(peer.file for peer in peers) else {}
    with contextlib.ExitStack() as running:
        for peer in tqdm(peers, desc="starting peers", leave=False, disable=None):
            try:
                process, details = _start(peer, files, command, folder, running)
            except PeerError as error:
                started.not_run[peer.name] = NotRun(str(error))
            else:
                started.ready.append(process)
                started.details[peer.name] = details
        yield started


def _export(model: Mapping[str, Any], command: Sequence[str], folder: Path) -> dict[str, str] | str:
    """Paths of the exported files, or why there are none."""
    settings = {"model": dict(model), "folder": str(folder / EXPORT)}
    try:
        with PeerProcess(EXPORT, command, folder / f"{EXPORT}.log") as exporter:
            return exporter.prepare(EXPORT, settings)
    except PeerError as error:
        return f"anomalib's model could not be exported: {error}"


def _start(
    peer: PeerSystem,
    files: dict[str, str] | str,
    command: Sequence[str],
    folder: Path,
    running: contextlib.ExitStack,
) -> tuple[PeerProcess, dict[str, Any]]:
    settings = dict(peer.settings)
    if peer.file is not None:
        if isinstance(files, str):
            raise PeerError(files)
        settings["file"] = files[peer.file]
    log = folder / f"{peer.name.replace(' ', '-')}.log"
    with contextlib.ExitStack() as starting:
        process = starting.enter_context(PeerProcess(peer.name, command, log))
        details = process.prepare(peer.system, settings)
        running.push(starting.pop_all())
    return process, details
