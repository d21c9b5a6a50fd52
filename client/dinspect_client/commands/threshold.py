"""``dinspect threshold PRODUCT``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.in_force import version_in_force
from dinspect_client.commands.text import describe_thresholds, plural, threshold_note, title
from dinspect_client.versions import VersionRecord


class ThresholdCommand:
    """``dinspect threshold PRODUCT``."""

    help = "show what decides about a product's parts, or change it without any image"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_method(parser)
        upper = parser.add_mutually_exclusive_group()
        upper.add_argument(
            "--set",
            dest="threshold",
            type=arguments.distance,
            metavar="T",
            help="by hand: above it a part is anomalous",
        )
        upper.add_argument(
            "--false-positive-rate",
            type=arguments.inner_share,
            metavar="F",
            help="share of good parts that may be called anomalous, in (0, 1)",
        )
        lower = parser.add_mutually_exclusive_group()
        lower.add_argument(
            "--normal-below",
            type=arguments.distance,
            metavar="N",
            help="with --set: up to it a part is normal, in between undecided (default: T)",
        )
        lower.add_argument(
            "--undecided-rate",
            type=arguments.share_from_zero,
            metavar="U",
            help="share of good parts that may be undecided besides, in [0, 1)",
        )
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Show, or make a version with other thresholds; return 0."""
        chosen = arguments.chosen_thresholds(args)
        with InspectionClient(args.url) as client:
            if all(value is None for value in chosen.values()):
                version = version_in_force(client, args.product, args.method)
            else:
                version = client.set_thresholds(
                    args.product, **chosen, method=args.method, operator=args.operator
                )
        if args.json:
            print(json.dumps(_to_dict(version)))
        else:
            print(_describe(version))
        note = threshold_note(version)
        if note:
            print(note, file=sys.stderr)
        return 0


def _describe(version: VersionRecord) -> str:
    calibration = version.calibration
    text = f"{title(version)} is in force: {describe_thresholds(version)}"
    if calibration.false_positive_rate is not None:
        text += (
            f"; of good parts {calibration.false_positive_rate:.3g} may be anomalous and "
            f"{calibration.undecided_rate or 0:.3g} undecided"
        )
    scores = sorted(calibration.reference_scores)
    if scores:
        text += (
            f"\n{plural(len(scores), 'score')} of good images: {scores[0]:.4g} to "
            f"{scores[-1]:.4g}, half of them up to {scores[(len(scores) - 1) // 2]:.4g}"
        )
    return text


def _to_dict(version: VersionRecord) -> dict[str, Any]:
    whole = version.to_dict()
    keys = ("product", "version", "threshold", "normal_below", "defect_threshold", "calibration")
    return {key: whole[key] for key in keys}
