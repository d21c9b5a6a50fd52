"""``dinspect inspect PRODUCT IMAGES…``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.pictures import picture_paths, write_picture
from dinspect_client.commands.text import plural, shown
from dinspect_client.errors import InspectionError
from dinspect_client.images import expand_paths
from dinspect_client.results import Inspection
from dinspect_client.wire import Verdict


class InspectCommand:
    """``dinspect inspect PRODUCT IMAGES…``."""

    help = "inspect images of a product and draw what was found"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument(
            "product", metavar="PRODUCT", help="a product, or one version of it: screw@3"
        )
        arguments.add_method(parser)
        arguments.add_images(parser)
        pictures = parser.add_mutually_exclusive_group()
        pictures.add_argument(
            "--output-dir",
            type=Path,
            metavar="DIR",
            help="where the pictures go (default: beside each image)",
        )
        pictures.add_argument(
            "--no-overlay", action="store_true", help="ask for no map and draw no pictures"
        )
        parser.add_argument(
            "--fail-on-anomaly",
            action="store_true",
            help="return 1 if any image is not normal, undecided ones included",
        )
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Inspect each image, whatever becomes of the others.

        Returns:
            3 if the server failed for any image, else 2 if any could not be inspected or drawn,
            else 1 if any is not normal and that was asked for, else 0.
        """
        paths = expand_paths(args.images)
        pictures = [None] * len(paths) if args.no_overlay else picture_paths(paths, args.output_dir)
        statuses = [0]
        with InspectionClient(args.url) as client:
            for path, picture in zip(paths, pictures, strict=True):
                try:
                    inspection = client.inspect(
                        args.product, path, method=args.method, with_map=picture is not None
                    )
                except InspectionError as error:
                    statuses.append(error.exit_status)
                    _report_failure(path, str(error), as_json=args.json)
                    continue
                problem = _draw(path, picture, inspection) if picture is not None else None
                if problem is not None:
                    statuses.append(2)
                if args.fail_on_anomaly and inspection.verdict is not Verdict.NORMAL:
                    statuses.append(1)
                _report(path, inspection, picture, problem, as_json=args.json)
        return max(statuses)


def _draw(path: Path, picture: Path, inspection: Inspection) -> str | None:
    """Write the picture of an inspection; return what prevented it, if anything did."""
    from dinspect_client.overlay import draw_inspection

    return write_picture(path, picture, lambda image: draw_inspection(image, inspection))


def _report(
    path: Path, inspection: Inspection, picture: Path | None, problem: str | None, *, as_json: bool
) -> None:
    if as_json:
        drawn = str(picture) if picture is not None and problem is None else None
        line: dict[str, Any] = {"image": str(path), "inspected": True, **inspection.to_dict()}
        line |= {"picture": drawn, "picture_error": problem}
        print(json.dumps(line), flush=True)
        return
    facts = [
        f"{shown(path)}: {inspection.verdict.name.lower():<9}",
        f"score {inspection.anomaly_score:.4g}",
        f"threshold {inspection.threshold:.4g}",
    ]
    if inspection.normal_below < inspection.threshold:
        facts.append(f"normal up to {inspection.normal_below:.4g}")
    if inspection.defect_regions is not None:
        facts.append(plural(len(inspection.defect_regions), "defect region"))
    facts.append(f"{inspection.latency_ms:.1f} ms")
    if problem is not None:
        facts.append(f"(no picture: {problem})")
    print("  ".join(facts), flush=True)


def _report_failure(path: Path, reason: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": str(path), "inspected": False, "error": reason}), flush=True)
    else:
        print(f"{shown(path)}: not inspected: {reason}", flush=True)
