"""``dinspect train PRODUCT IMAGES…``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dinspect_client.commands import arguments
from dinspect_client.commands.text import describe_version, threshold_note
from dinspect_client.wire import L2BT_SIGMA_PX, Method

if TYPE_CHECKING:
    from dinspect_server.student_training import TrainingPlan

DEFAULT_LEARNING_RATE = 1e-4


class TrainCommand:
    """``dinspect train PRODUCT IMAGES…``."""

    help = "train L2BT's students for a product on good images, and publish them"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_images(parser)
        parser.add_argument(
            "--good",
            metavar="IMAGES",
            nargs="+",
            default=[],
            type=Path,
            help="other images of good parts, which set the thresholds and are not trained on",
        )
        _add_training(parser)
        _add_scoring(parser)
        arguments.add_thresholds(parser, "default: found on good images, rates 5 % and 0")
        _add_work(parser)
        arguments.add_no_activate(parser)
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Train and publish, with progress on stderr; return 0.

        Raises:
            MissingDependencyError: If PyTorch, or what exports with it, is not installed.
        """
        from dinspect_client import InspectionClient
        from dinspect_export.errors import MissingDependencyError
        from dinspect_export.threads import share_the_processor

        share_the_processor()
        try:
            from dinspect_server.student_training import train_product
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"training needs the package {error.name}; install 'dinspect[export]'"
            ) from error
        plan = _plan(args)
        with InspectionClient(args.url, timeout_s=args.timeout, enroll_timeout_s=3600.0) as client:
            version = train_product(client, args.url, plan, _progress)
            in_force = client.history(args.product, method=Method.L2BT).current
        if args.json:
            print(json.dumps(version.to_dict()))
            return 0
        print(describe_version(version))
        note = threshold_note(version)
        if note:
            print(note, file=sys.stderr)
        is_in_force = in_force == version.version
        name = version.product if is_in_force else version.reference
        state = "it is in force" if is_in_force else f"version {in_force} is still in force"
        print(f"{state}: `dinspect inspect {name} --method l2bt IMAGES`")
        return 0


def _plan(args: argparse.Namespace) -> TrainingPlan:
    from dinspect_client.images import expand_paths
    from dinspect_export.students import Combination, DistanceOptions, Metric, Normalisation
    from dinspect_export.training import TrainingOptions, fastest_precision
    from dinspect_server.student_training import TrainingPlan

    precision = args.training_precision
    if precision == "auto":
        precision = fastest_precision(args.device)
    return TrainingPlan(
        product=args.product,
        images=tuple(expand_paths(args.images)),
        good_images=tuple(expand_paths(args.good)),
        resolution=args.resolution,
        layers=tuple(args.layers) if args.layers else None,
        options=TrainingOptions(
            args.epochs, args.learning_rate, args.batch_images, args.seed, precision
        ),
        distance=DistanceOptions(
            Normalisation(args.normalisation), Metric(args.metric), Combination(args.combination)
        ),
        smoothing=args.smoothing,
        sigma_px=args.sigma_px,
        thresholds=arguments.chosen_thresholds(args),
        students=tuple(args.students),
        work_dir=args.work_dir,
        max_cache_bytes=int(args.max_cache_gib * 2**30),
        keep=args.keep,
        activate=not args.no_activate,
        operator=args.operator,
        device=args.device,
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--resolution",
        type=arguments.positive_int,
        metavar="N",
        help="edge of the backbone's square input in pixels (default: the largest served)",
    )
    group.add_argument(
        "--layers",
        type=arguments.positive_int,
        nargs=2,
        metavar=("J", "K"),
        help="blocks of the backbone to translate between (default: the paper's, 8 and 12 of a "
        "ViT-S or -B)",
    )
    group.add_argument(
        "--epochs", type=arguments.positive_int, default=50, help="default: %(default)s"
    )
    group.add_argument(
        "--learning-rate",
        type=arguments.positive_distance,
        default=DEFAULT_LEARNING_RATE,
        help="Adam's (default: %(default)s, the official code's; the paper says 0.001)",
    )
    group.add_argument(
        "--batch-images",
        type=arguments.positive_int,
        default=4,
        help="images per step (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=arguments.int_from_zero, default=115, help="default: %(default)s"
    )
    group.add_argument(
        "--training-precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the matrix products in training (default: auto, bf16 where there are units)",
    )
    group.add_argument(
        "--device", default="cpu", help="where PyTorch trains: cpu (default) or cuda"
    )
    group.add_argument(
        "--students",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="publish these instead of training: the official code's forward_net_*.pth and "
        "backward_net_*.pth, or one .safetensors; IMAGES then only set the thresholds",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--combination",
        choices=("product", "sum", "forward", "backward"),
        default="product",
        help="of the two students' distances (default: %(default)s, Table 9)",
    )
    group.add_argument(
        "--metric",
        choices=("euclidean", "cosine"),
        default="euclidean",
        help="distance of two tokens (default: %(default)s, Table 8)",
    )
    group.add_argument(
        "--normalisation",
        choices=("l2", "none"),
        default="l2",
        help="of both tokens before the distance (default: %(default)s, the official code's; "
        "Equation 3 has none)",
    )
    group.add_argument(
        "--smoothing",
        choices=("gaussian", "boxes"),
        default="gaussian",
        help="of the map (default: %(default)s; boxes is the official code's chain of filters)",
    )
    group.add_argument(
        "--sigma-px",
        type=arguments.distance,
        default=L2BT_SIGMA_PX,
        metavar="S",
        help="of the Gaussian, in pixels of the image (default: %(default).3f, as wide as the "
        "official filters)",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work", "a run that was killed goes on where it was")
    group.add_argument(
        "--work-dir",
        type=Path,
        default=Path("build/training"),
        metavar="DIR",
        help="cache of patch tokens and checkpoints (default: %(default)s)",
    )
    group.add_argument(
        "--max-cache-gib",
        type=arguments.positive_distance,
        default=32.0,
        metavar="G",
        help="what the cache may take of the disk (default: %(default)s)",
    )
    group.add_argument(
        "--keep", action="store_true", help="leave cache and checkpoints after the publication"
    )
    group.add_argument(
        "--timeout",
        type=arguments.positive_distance,
        default=300.0,
        metavar="S",
        help="seconds to wait for an image's patch tokens (default: %(default)s)",
    )


@contextlib.contextmanager
def _progress(stage: str, num_steps: int) -> Iterator[Callable[[int], object]]:
    """A bar of so many images, or of percent when the stage does not say."""
    from tqdm import tqdm

    print(f"{stage} ...", file=sys.stderr, flush=True)
    unit = "image" if num_steps else "%"
    total = num_steps or 100
    with tqdm(total=total, desc=stage, unit=unit, leave=False, disable=None) as bar:
        yield lambda done: bar.update(done - bar.n)
