"""``dinspect history PRODUCT``."""

from __future__ import annotations

import argparse
import json

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import table
from dinspect_client.products import DamagedVersion, ProductHistory

VERSIONS_HEAD = (
    "",
    "VERSION",
    "MADE BY",
    "FROM",
    "OPERATOR",
    "AT",
    "IMAGES",
    "PATCHES",
    "THRESHOLD",
    "NORMAL UP TO",
    "BY",
)
CHANGES_HEAD = ("AT", "OPERATOR", "CHANGE", "VERSION")


class HistoryCommand:
    """``dinspect history PRODUCT``."""

    help = "show all versions of a product, and who changed what when"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_method(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print two tables, or a JSON object; return 0."""
        with InspectionClient(args.url) as client:
            history = client.history(args.product, method=args.method)
        if args.json:
            print(json.dumps(history.to_dict()))
            return 0
        print(_versions(history))
        damaged = [one for one in history.versions if isinstance(one, DamagedVersion)]
        for one in damaged:
            print(f"version {one.version} cannot be used: {one.error}")
        print()
        print(_changes(history))
        return 0


def _versions(history: ProductHistory) -> str:
    rows: list[tuple[str, ...]] = [VERSIONS_HEAD]
    for one in history.versions:
        mark = "*" if one.version == history.current else ""
        if isinstance(one, DamagedVersion):
            rows.append((mark, str(one.version), "damaged", *[""] * (len(VERSIONS_HEAD) - 3)))
            continue
        change = one.change
        made_from = change.origin or ("" if change.from_version is None else change.from_version)
        rows.append(
            (
                mark,
                str(one.version),
                change.action,
                str(made_from),
                change.operator,
                change.at,
                str(one.num_references),
                str(one.num_patches),
                f"{one.threshold:.4g}",
                f"{one.normal_below:.4g}",
                one.calibration.method,
            )
        )
    return table(rows)


def _changes(history: ProductHistory) -> str:
    rows: list[tuple[str, ...]] = [CHANGES_HEAD]
    rows += [
        (
            change.at,
            change.operator,
            change.action,
            "all" if change.version is None else str(change.version),
        )
        for change in history.changes
    ]
    return table(rows)
