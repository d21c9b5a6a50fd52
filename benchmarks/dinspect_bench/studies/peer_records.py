"""Records of the study ``peers``: one of kind ``peer_latency`` for each system of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from dinspect_bench.machine.environment import describe_environment, is_of_such_a_machine
from dinspect_bench.peers.comparison import compare, spread
from dinspect_bench.peers.rounds import Measured, NotRun
from dinspect_bench.peers.served import OURS, OURS_COVERS
from dinspect_bench.records import Record
from dinspect_bench.studies.peer_cases import PeerCase, PreparedCase

_FOLDERS = re.compile(r"(?<![\w.])(?:/[\w.+~-]+)+/")
FIGURES = (
    "p25_ms",
    "p50_ms",
    "p75_ms",
    "ratio_to_dinspect",
    "dinspect_ratio",
    "dinspect_ratio_p25",
    "dinspect_ratio_p75",
    "dinspect_ratio_of_medians",
    "idle_processor_share",
    "latencies_ms",
)
"""Of a record. ``ratio_to_dinspect`` is the system's time by ours, ``dinspect_ratio`` ours by the
system's; both are medians of the rounds' ratios."""


@dataclass(frozen=True)
class Outcome:
    """What came of measuring a case.

    Attributes:
        systems: Name to latencies, or to why there are none; ours first.
        details: Name to what a peer's process says of itself.
        aurocs: Name to image AUROC, of the systems whose scores were compared.
    """

    systems: Mapping[str, Measured | NotRun]
    details: Mapping[str, Mapping[str, Any]]
    aurocs: Mapping[str, float]


def measured_before(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Record]:
    """The latest records of a run on such a machine, if all is there and every peer ran; or none.

    Args:
        records: What there is, oldest first.
        settings: Of the run.
    """
    latest = {
        record["system"]: record
        for record in records
        if all(record.get(key) == value for key, value in settings.items())
        and is_of_such_a_machine(record["environment"])
    }
    found = list(latest.values())
    whole = found and all(record["num_systems"] == len(found) for record in found)
    return found if whole and all(record["not_run"] is None for record in found) else []


def peer_records(
    case: PeerCase, settings: Mapping[str, Any], prepared: PreparedCase, outcome: Outcome
) -> list[Record]:
    """One record of kind ``peer_latency`` for each system, ours first.

    Args:
        case: What was compared.
        settings: Of the run; they lie in every record.
        prepared: What was measured.
        outcome: What came of it.

    Raises:
        MetricError: If ours was not measured.
    """
    ours = outcome.systems[OURS]
    ours_ms = ours.latencies_ms if isinstance(ours, Measured) else ()
    covers = {OURS: OURS_COVERS} | {peer.name: peer.covers for peer in prepared.peers}
    our_details = {"runtime": prepared.runtime, "precision": prepared.precision}
    common = {
        "record": "peer_latency",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        **settings,
        "backbone": case.backbone,
        "resolution": case.side_px,
        "bank_patches": prepared.bank_patches,
        "dinspect_precision": prepared.precision,
        "num_systems": len(outcome.systems),
    }
    records = []
    for name, measured in outcome.systems.items():
        details = our_details if name == OURS else outcome.details.get(name, {})
        record = common | {
            "system": name,
            "covers": covers[name],
            "runtime": details.get("runtime"),
            "precision": details.get("precision"),
            "versions": details.get("versions"),
            "image_auroc": outcome.aurocs.get(name),
        }
        records.append(record | _figures(ours_ms, measured))
    return records


def _figures(ours_ms: Sequence[float], measured: Measured | NotRun) -> Record:
    """Median, quartiles and ratios of a system; all None when it was not run."""
    if isinstance(measured, NotRun):
        return dict.fromkeys(FIGURES) | {"num_samples": 0, "not_run": _published(measured.reason)}
    latency, ratio = spread(measured.latencies_ms), compare(ours_ms, measured.latencies_ms)
    return {
        "p25_ms": latency.p25,
        "p50_ms": latency.p50,
        "p75_ms": latency.p75,
        "ratio_to_dinspect": compare(measured.latencies_ms, ours_ms).paired.p50,
        "dinspect_ratio": ratio.paired.p50,
        "dinspect_ratio_p25": ratio.paired.p25,
        "dinspect_ratio_p75": ratio.paired.p75,
        "dinspect_ratio_of_medians": ratio.of_medians,
        "idle_processor_share": measured.idle_processor_share,
        "latencies_ms": [round(latency, 3) for latency in measured.latencies_ms],
        "num_samples": len(measured.latencies_ms),
        "not_run": None,
    }


def _published(reason: str) -> str:
    """A reason without this machine's folders: of a path the file's name is left."""
    return _FOLDERS.sub("", reason)
