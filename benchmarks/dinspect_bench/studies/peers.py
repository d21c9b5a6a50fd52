"""Ours against the peers in one run: the same images, machine and minutes, sample by sample.

Ours is a whole request to a real server. The peers are anomalib and its backbone, in an environment
of their own (`dinspect install-peers`), each in a process of its own; those that are missing or
fail are told as not run, and the others go on.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dinspect_bench.accuracy.image_metrics import image_auroc
from dinspect_bench.errors import PeerError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.peers.installation import default_location, find_peers
from dinspect_bench.peers.process import runner_command
from dinspect_bench.peers.rounds import ORDERS, PAUSE_S, Measured, NotRun, System, run_rounds
from dinspect_bench.peers.served import OURS
from dinspect_bench.peers.started import StartedPeers, started_peers
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.peer_cases import (
    CASES,
    Labelled,
    PeerCase,
    PreparedCase,
    prepared_anomaly_dino,
    prepared_l2bt,
)
from dinspect_bench.studies.peer_records import Outcome, measured_before, peer_records
from dinspect_bench.studies.peers_table import format_peers
from dinspect_client.wire import Method
from dinspect_export.threads import share_the_processor


def run_peers_study(
    build_dir: Path,
    output: Path,
    *,
    cases: Sequence[str] = tuple(CASES),
    precisions: Sequence[str] = ("auto",),
    num_rounds: int | None = None,
    num_inspected: int = 60,
) -> str:
    """Measure ours and every peer in turn, and write the table.

    A case that was measured on such a machine in a precision with every peer is not measured again.

    Args:
        build_dir: Where our backbones are exported to, unless they are there.
        output: The table; its records go beside it, with the ending ``.jsonl``.
        cases: Names of `CASES`.
        precisions: Of our server, as `assemble` takes them; each gets a run of its own.
        num_rounds: Samples of each system; None for each case's own number.
        num_inspected: Functional cells, and as many defective ones, whose scores are compared.

    Returns:
        The table.

    Raises:
        AssemblyError: If the server knows no such precision. Other errors of the exporter, the
            server and the client pass through too; a peer's are in the table.
    """
    share_the_processor()
    records = RecordFile(output.with_suffix(".jsonl"))
    measured: list[Record] = []
    for case in (CASES[name] for name in cases):
        for precision in precisions:
            settings = {
                "case": case.name,
                "requested_precision": precision,
                "num_rounds": num_rounds or case.num_rounds,
                "num_inspected": num_inspected,
                "orders": ORDERS,
                "pause_s": PAUSE_S,
            }
            known = measured_before(records.read(), settings)
            if not known:
                known = _measure(case, build_dir, settings)
                for record in known:
                    records.append(record)
            measured += known
    table = format_peers(measured)
    write_text_atomically(output, table)
    return table


def _measure(case: PeerCase, build_dir: Path, settings: Mapping[str, Any]) -> list[Record]:
    precision, num_rounds = settings["requested_precision"], settings["num_rounds"]
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dinspect-peers-")))
        prepared = running.enter_context(
            prepared_l2bt(case, folder, precision)
            if case.method == Method.L2BT
            else prepared_anomaly_dino(
                case, build_dir, folder, precision, settings["num_inspected"]
            )
        )
        started = _start(prepared, folder, running)
        systems: list[System] = [prepared.ours, *started.ready]
        total = num_rounds * len(systems)
        with tqdm(total=total, desc=case.name, unit="sample", leave=False, disable=None) as bar:
            ran = run_rounds(
                systems,
                prepared.images,
                num_rounds=num_rounds,
                num_warmup=case.num_warmup,
                on_sample=bar.update,
            )
        ran, aurocs = _compare_scores(systems, prepared, ran)
    whole = started.not_run | ran
    in_order = {name: whole[name] for name in (OURS, *(peer.name for peer in prepared.peers))}
    return peer_records(case, settings, prepared, Outcome(in_order, started.details, aurocs))


def _start(prepared: PreparedCase, folder: Path, running: contextlib.ExitStack) -> StartedPeers:
    """Start the peers; without their environment none of them is run."""
    try:
        command = runner_command(find_peers(default_location()))
    except PeerError as error:
        reason = NotRun(str(error))
        return StartedPeers(not_run={peer.name: reason for peer in prepared.peers})
    return running.enter_context(started_peers(prepared.peers, prepared.model, command, folder))


def _compare_scores(
    systems: Sequence[System], prepared: PreparedCase, ran: Mapping[str, Measured | NotRun]
) -> tuple[dict[str, Measured | NotRun], dict[str, float]]:
    """The outcomes, in which a system that fails now is not run, and AUROC by name."""
    outcomes, aurocs = dict(ran), {}
    labelled = prepared.labelled
    scored = {OURS, *(peer.name for peer in prepared.peers if peer.is_scored)}
    for system in systems:
        if labelled is None or system.name not in scored or isinstance(ran[system.name], NotRun):
            continue
        try:
            aurocs[system.name] = _auroc(system, labelled)
        except PeerError as error:
            outcomes[system.name] = NotRun(f"failed while its scores were compared: {error}")
    return outcomes, aurocs


def _auroc(system: System, labelled: Labelled) -> float:
    images = tqdm(labelled.images, desc=system.name, unit="image", leave=False, disable=None)
    scores = [system.run(image).score for image in images]
    return image_auroc(labelled.is_defective, [score for score in scores if score is not None])
