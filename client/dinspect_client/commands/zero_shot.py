"""``dinspect zero-shot IMAGES…``."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.pictures import picture_paths, write_picture
from dinspect_client.commands.text import progress_bar, shown, table
from dinspect_client.images import expand_paths
from dinspect_client.results import ZeroShotScore

if TYPE_CHECKING:
    from tqdm import tqdm

MASKINGS = ("test", "always", "never")
STATISTICS = ("max", "mean")
"""Names as the server knows them; a test holds both to it."""

DEFAULT_PEAK = 0.3
"""Patch distance at which the pictures' colour scale ends."""


class ZeroShotCommand:
    """``dinspect zero-shot IMAGES…``."""

    help = "score images without references, each against all others, and rank them"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_images(parser)
        group = parser.add_argument_group("how they are compared")
        arguments.add_resolution(group)
        group.add_argument(
            "--alpha",
            type=arguments.inner_share,
            metavar="A",
            help="share of the nearest patches of all other images that counts, in (0, 1) "
            "(default: 0.001)",
        )
        group.add_argument(
            "--statistic",
            choices=STATISTICS,
            help="of the distances to them: max, as in the paper (default), or mean, as in its "
            "authors' code",
        )
        group.add_argument(
            "--masking",
            choices=MASKINGS,
            help="of the background: if a test on the first image says so (default), always, never",
        )
        arguments.add_image_score(group)
        parser.add_argument(
            "--top",
            type=arguments.int_from_zero,
            default=10,
            metavar="N",
            help="length of the ranking at the end (default: %(default)s)",
        )
        parser.add_argument(
            "--output-dir", type=Path, metavar="DIR", help="write a picture of each image there"
        )
        parser.add_argument(
            "--peak",
            type=arguments.positive_distance,
            default=DEFAULT_PEAK,
            metavar="D",
            help="patch distance with the last colour in the pictures (default: %(default)s)",
        )
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Score each image as it comes, then print the ranking.

        Returns:
            2 if any picture could not be written, else 0.
        """
        paths = expand_paths(args.images)
        pictures = (
            [None] * len(paths)
            if args.output_dir is None
            else picture_paths(paths, args.output_dir)
        )
        scores: list[float] = []
        status = 0
        with (
            InspectionClient(args.url) as client,
            progress_bar("staging", total=len(paths), unit="image") as bar,
            contextlib.closing(
                client.zero_shot(
                    paths,
                    resolution=args.resolution,
                    masking=args.masking,
                    alpha=args.alpha,
                    statistic=args.statistic,
                    image_score=args.image_score,
                    with_map=args.output_dir is not None,
                    on_progress=lambda done, _: _show_staged(bar, done),
                )
            ) as found,
        ):
            for path, picture, score in zip(paths, pictures, found, strict=True):
                problem = _draw(path, picture, score, args.peak) if picture is not None else None
                status = status if problem is None else 2
                bar.clear()
                _report(path, score, picture, problem, as_json=args.json)
                bar.update()
                scores.append(score.anomaly_score)
        if not args.json:
            _print_ranking(paths, scores, args.top)
        return status


def _show_staged(bar: tqdm[Any], num_staged: int) -> None:
    """Move the bar; it counts anew when all images are staged and scoring begins."""
    bar.update(num_staged - bar.n)
    if num_staged == bar.total:
        bar.reset()
        bar.set_description("scoring")


def _draw(path: Path, picture: Path, score: ZeroShotScore, peak: float) -> str | None:
    """Write the picture of a score; return what prevented it, if anything did."""
    from dinspect_client.overlay import draw_zero_shot

    return write_picture(path, picture, lambda image: draw_zero_shot(image, score, peak=peak))


def _report(
    path: Path, score: ZeroShotScore, picture: Path | None, problem: str | None, *, as_json: bool
) -> None:
    if as_json:
        drawn = str(picture) if picture is not None and problem is None else None
        line = {"image": str(path), **score.to_dict(), "picture": drawn, "picture_error": problem}
        print(json.dumps(line), flush=True)
        return
    text = f"{shown(path)}: score {score.anomaly_score:.4g}  {score.latency_ms:.1f} ms"
    print(text if problem is None else f"{text}  (no picture: {problem})", flush=True)


def _print_ranking(paths: Sequence[Path], scores: Sequence[float], length: int) -> None:
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:length]
    if not order:
        return
    rows = [("RANK", "SCORE", "IMAGE")]
    rows += [
        (str(rank), f"{scores[index]:.4g}", shown(paths[index]))
        for rank, index in enumerate(order, start=1)
    ]
    print(f"\nthe {len(order)} oddest of {len(scores)} images\n{table(rows)}")
