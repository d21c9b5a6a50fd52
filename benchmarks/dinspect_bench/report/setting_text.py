"""What a record of latency was measured at, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinspect_bench.records import Record
from dinspect_bench.report.record_schema import KINDS
from dinspect_client.wire import Method

_SHOWN_KEYS = {
    *KINDS["latency"], "record", "created", "environment", "preprocessing",
    "memory_bank_s", "memory_bank_std_s", "stages_sum_share", "variant", "part", "batch",
}  # fmt: skip
_CIRCUMSTANCES = {
    "requested_precision", "load_average", "num_inspected", "ensemble", "transport",
    "server_version", "bundle_version",
}  # fmt: skip
"""What a record keeps of how it was measured, besides counts; a table has no room for it."""


def preprocessing_of(record: Mapping[str, Any]) -> str | None:
    """The preprocessing setting of a record of latency, from whichever keys tell it."""
    named = record.get("preprocessing")
    if named is not None:
        return str(named)
    masking, rotation = record["masking"], record["rotation"]
    if isinstance(rotation, str) or rotation is None or masking is None:
        return rotation if isinstance(rotation, str) else None
    return f"{'mask' if masking else 'no_mask'}_{'rotation' if rotation else 'no_rotation'}"


def setting_text(record: Record) -> str:
    """A record's setting in one line, without what does not apply to it."""
    shots, bank = record["shots"], record["bank_patches"]
    parts = [
        record["method"],
        record.get("part"),
        record["backbone"],
        None if record["resolution"] is None else f"{record['resolution']} px",
        None if shots is None else f"{shots}-shot",
        None if bank is None else f"{bank:,} patches",
        None if record["method"] == Method.L2BT else preprocessing_of(record),
        "with map" if record["with_map"] else "without map",
        None if record.get("batch") is None else f"batch {record['batch']}",
        f"{record['runtime']} {record['precision']}",
        record.get("variant"),
        *_further_settings(record),
    ]
    return ", ".join(str(part) for part in parts if part is not None)


def _further_settings(record: Record) -> list[str]:
    """What else tells a record from others: texts and truths that have no place of their own."""
    usual = {"response_cache": "off", "input_size": str(record["resolution"])}
    return [
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(record.items())
        if has_no_place(name) and isinstance(value, (str, bool)) and usual.get(name) != value
    ]


def has_no_place(name: str) -> bool:
    """Whether a key has no column of its own and is worth showing."""
    is_detail = name.startswith("num_") or name.endswith("_sha256")
    return name not in _SHOWN_KEYS | _CIRCUMSTANCES and not is_detail
