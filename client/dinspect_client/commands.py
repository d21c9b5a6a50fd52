"""The client's subcommands: ``enroll``, ``products``, ``inspect``."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinspect_client.client import DEFAULT_URL, InspectionClient, is_host_port
from dinspect_client.errors import InspectionError
from dinspect_client.images import PICTURE_SUFFIX, expand_paths
from dinspect_client.results import Enrollment, Inspection, Product
from dinspect_client.wire import Verdict


class EnrollCommand:
    """``dinspect enroll PRODUCT IMAGES…``."""

    help = "enrol a product, or a new version of it, from images of good parts"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument("product", metavar="PRODUCT", help="name of the product")
        _add_images(parser)
        parser.add_argument(
            "--resolution",
            type=_positive_int,
            metavar="N",
            help="shorter edge in pixels (default: the server's)",
        )
        threshold = parser.add_mutually_exclusive_group()
        threshold.add_argument(
            "--false-positive-rate",
            type=_share,
            metavar="F",
            help="share of good parts that may be rejected, in (0, 1)",
        )
        threshold.add_argument(
            "--threshold", type=float, metavar="T", help="set by hand instead of calibrated"
        )
        parser.add_argument(
            "--operator", metavar="NAME", help="who enrols, recorded with the version"
        )
        _add_url(parser)
        _add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Enrol, with progress on a terminal's stderr; return 0."""
        from tqdm import tqdm

        paths = expand_paths(args.images)
        with (
            InspectionClient(args.url) as client,
            tqdm(total=len(paths), unit="image", desc=args.product, disable=None) as bar,
        ):
            enrollment = client.enroll(
                args.product,
                paths,
                resolution=args.resolution,
                false_positive_rate=args.false_positive_rate,
                threshold=args.threshold,
                operator=args.operator,
                on_progress=lambda done, _: bar.update(done - bar.n),
            )
        if args.json:
            print(json.dumps(enrollment.to_dict()))
        else:
            print(
                f"{enrollment.product} version {enrollment.bundle_version}: "
                f"{enrollment.num_references} images, {enrollment.num_patches} patches, "
                f"threshold {enrollment.threshold:.4g} ({enrollment.calibration.method}), "
                f"inspected by {enrollment.ensemble}"
            )
        note = _calibration_note(enrollment)
        if note:
            print(note, file=sys.stderr)
        return 0


def _calibration_note(enrollment: Enrollment) -> str:
    """Say when a threshold rests on fewer scores than its false positive rate can be read from."""
    rate = enrollment.calibration.false_positive_rate
    num_scores = len(enrollment.calibration.reference_scores)
    if enrollment.num_references == 1 and rate is not None:
        return (
            "note: one image cannot say how good parts differ. Parts below the threshold, found by "
            "turning it, are answered undecided, not normal: enrol more images, or set --threshold"
        )
    if rate is None or num_scores * rate >= 1:
        return ""
    return (
        f"note: the threshold is the largest of {num_scores} scores of good images; a false "
        f"positive rate of {rate:g} needs {math.ceil(1 / rate)} or more. One odd reference sets "
        "it: look at the first verdicts, or set --threshold"
    )


class ProductsCommand:
    """``dinspect products``."""

    help = "list the enrolled products"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        _add_url(parser)
        _add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print a table, or a JSON list; return 0."""
        with InspectionClient(args.url) as client:
            products = client.products()
        if args.json:
            print(json.dumps([product.to_dict() for product in products]))
        elif products:
            print(_table(products))
        else:
            print("no product is enrolled; add one with `dinspect enroll PRODUCT IMAGES`")
        return 0


class InspectCommand:
    """``dinspect inspect PRODUCT IMAGES…``."""

    help = "inspect images of a product and draw what was found"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument(
            "product", metavar="PRODUCT", help="an enrolled product, or one version: screw@3"
        )
        _add_images(parser)
        pictures = parser.add_mutually_exclusive_group()
        pictures.add_argument(
            "--output-dir",
            type=Path,
            metavar="DIR",
            help="where the pictures go (default: beside each image)",
        )
        pictures.add_argument("--no-overlay", action="store_true", help="draw no pictures")
        parser.add_argument(
            "--fail-on-anomaly",
            action="store_true",
            help="return 1 if any image is not normal, undecided ones included",
        )
        _add_url(parser)
        _add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Inspect each image, whatever becomes of the others.

        Returns:
            3 if the server failed for any image, else 2 if any could not be inspected or drawn,
            else 1 if any is not normal and that was asked for, else 0.
        """
        paths = expand_paths(args.images)
        pictures = (
            [None] * len(paths) if args.no_overlay else _picture_paths(paths, args.output_dir)
        )
        statuses = [0]
        with InspectionClient(args.url) as client:
            for path, picture in zip(paths, pictures, strict=True):
                try:
                    inspection = client.inspect(args.product, path, with_map=picture is not None)
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


def _report(
    path: Path, inspection: Inspection, picture: Path | None, problem: str | None, *, as_json: bool
) -> None:
    if as_json:
        drawn = str(picture) if picture is not None and problem is None else None
        line: dict[str, Any] = {"image": str(path), "inspected": True, **inspection.to_dict()}
        line |= {"picture": drawn, "picture_error": problem}
        print(json.dumps(line), flush=True)
        return
    text = (
        f"{path}: {inspection.verdict.name.lower():<9}  score {inspection.anomaly_score:.4g}  "
        f"threshold {inspection.threshold:.4g}  {inspection.latency_ms:.1f} ms"
    )
    print(text if problem is None else f"{text}  (no picture: {problem})", flush=True)


def _report_failure(path: Path, reason: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": str(path), "inspected": False, "error": reason}), flush=True)
    else:
        print(f"{path}: not inspected: {reason}", flush=True)


def _draw(path: Path, picture: Path, inspection: Inspection) -> str | None:
    """Write the picture of an inspection; return what prevented it, if anything did."""
    from dinspect_client.overlay import draw_inspection, read_rgb, write_png

    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture, draw_inspection(read_rgb(path), inspection))
    except (OSError, ValueError, InspectionError) as error:
        # The verdict stands; a full disk must not hide it.
        return str(error)
    return None


def _picture_paths(paths: Sequence[Path], folder: Path | None) -> list[Path]:
    """One distinct picture per image, also for a/1.png and b/1.png, or 1.png and 1.jpg."""
    pictures: list[Path] = []
    taken: set[Path] = set()
    for path in paths:
        place = path.parent if folder is None else folder
        picture, number = place / f"{path.stem}{PICTURE_SUFFIX}", 1
        while picture in taken:
            number += 1
            picture = place / f"{path.stem}-{number}{PICTURE_SUFFIX}"
        taken.add(picture)
        pictures.append(picture)
    return pictures


def _table(products: Sequence[Product]) -> str:
    rows = [("PRODUCT", "VERSION", "OF", "IMAGE", "ENSEMBLE", "REFERENCES", "THRESHOLD", "CREATED")]
    for product in products:
        height, width = product.image_size
        rows.append(
            (
                product.name,
                str(product.current),
                ",".join(map(str, product.versions)),
                f"{width}x{height}",
                product.ensemble,
                str(product.num_references),
                f"{product.threshold:.4g}",
                product.created_at,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGES", nargs="+", type=Path, help="image files, or folders of them"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        type=_host_port,
        metavar="HOST:PORT",
        default=os.environ.get("DINSPECT_URL") or DEFAULT_URL,
        help="the server's gRPC endpoint (default: $DINSPECT_URL, else %(default)s)",
    )


def _host_port(text: str) -> str:
    if not is_host_port(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT such as {DEFAULT_URL}")
    return text


def _positive_int(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
