"""Options that several subcommands have, and how their values are read."""

from __future__ import annotations

import argparse
import getpass
import math
import os
from pathlib import Path
from typing import Any

from dinspect_client.connection import DEFAULT_URL, is_host_port
from dinspect_client.wire import METHODS, Method, parse_product

IMAGE_SCORES = ("mean_top1p", "mean_top1p_foreground", "max", "max_map")
"""Names of the image scores; a test holds them to the server's."""

NO_STUDENTS = "students have no such file; `dinspect train` publishes them on each server"
"""Why files of products are of ``anomaly_dino`` alone."""


class WrongUse(Exception):  # noqa: N818  what argparse would say if it could
    """Options that do not go together, or leave out what is needed."""

    exit_status = 2


def add_product(parser: argparse.ArgumentParser) -> None:
    """Declare ``PRODUCT``, a name without a version."""
    parser.add_argument("product", metavar="PRODUCT", help="name of the product")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Declare ``--method``."""
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=Method.ANOMALY_DINO,
        help="whose versions of the product: anomaly_dino, enrolled from images, or l2bt, trained "
        "(default: %(default)s)",
    )


def add_only_method(parser: argparse.ArgumentParser, why: str) -> None:
    """Declare ``--method`` for a subcommand that only ``anomaly_dino`` has, to refuse the others.

    Args:
        parser: Of the subcommand.
        why: What is different about ``l2bt``, and what to do instead.
    """

    def only(text: str) -> str:
        if text != Method.ANOMALY_DINO:
            raise argparse.ArgumentTypeError(f"this is for {Method.ANOMALY_DINO} alone; {why}")
        return text

    parser.add_argument("--method", type=only, help=argparse.SUPPRESS)


def add_images(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Declare ``IMAGES``."""
    parser.add_argument(
        "images",
        metavar="IMAGES",
        nargs="*" if optional else "+",
        type=Path,
        help="image files, or folders of them",
    )


def add_good_images(parser: argparse.ArgumentParser) -> None:
    """Declare ``--good``."""
    parser.add_argument(
        "--good",
        metavar="IMAGES",
        nargs="+",
        default=[],
        type=Path,
        help="other images of good parts, which set the thresholds and do not enter the bank",
    )


def add_resolution(parser: argparse._ActionsContainer) -> None:
    """Declare ``--resolution``."""
    parser.add_argument(
        "--resolution",
        type=positive_int,
        metavar="N",
        help="shorter edge in pixels (default: the server's)",
    )


def add_image_score(parser: argparse._ActionsContainer) -> None:
    """Declare ``--image-score``."""
    parser.add_argument(
        "--image-score",
        choices=IMAGE_SCORES,
        help="from patch distances to one number: mean of the 1 %% largest (of all patches, the "
        "default, or of the foreground), the largest, or the largest of the smoothed map",
    )


def add_thresholds(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Declare how the thresholds are found.

    Args:
        parser: Of the subcommand.
        otherwise: What happens when nothing is said.
    """
    group = parser.add_argument_group(
        "thresholds", f"by rates of good parts, or by hand ({otherwise})"
    )
    upper = group.add_mutually_exclusive_group()
    upper.add_argument(
        "--false-positive-rate",
        type=inner_share,
        metavar="F",
        help="share of good parts that may be called anomalous, in (0, 1)",
    )
    upper.add_argument("--threshold", type=distance, metavar="T", help="set by hand")
    lower = group.add_mutually_exclusive_group()
    lower.add_argument(
        "--undecided-rate",
        type=share_from_zero,
        metavar="U",
        help="share of good parts that may be undecided besides, in [0, 1)",
    )
    lower.add_argument(
        "--normal-below",
        type=distance,
        metavar="N",
        help="with --threshold: up to here a part is normal, in between undecided",
    )


def chosen_thresholds(args: argparse.Namespace) -> dict[str, float | None]:
    """Return what ``add_thresholds`` declared, as keywords of the client's methods.

    Raises:
        WrongUse: If the choices contradict each other.
    """
    if args.threshold is not None and args.undecided_rate is not None:
        raise WrongUse("a threshold by hand goes with --normal-below, not with --undecided-rate")
    if args.normal_below is not None:
        if args.threshold is None:
            raise WrongUse("--normal-below is the lower of two thresholds by hand; give the upper")
        if args.normal_below > args.threshold:
            raise WrongUse(
                f"--normal-below {args.normal_below:g} is above the threshold {args.threshold:g}"
            )
    return {
        "false_positive_rate": args.false_positive_rate,
        "undecided_rate": args.undecided_rate,
        "threshold": args.threshold,
        "normal_below": args.normal_below,
    }


def add_no_activate(parser: argparse.ArgumentParser) -> None:
    """Declare ``--no-activate``."""
    parser.add_argument(
        "--no-activate",
        action="store_true",
        help="leave the version in force as it is; `dinspect rollback PRODUCT VERSION` puts the "
        "new one in force later",
    )


def add_operator(parser: argparse.ArgumentParser) -> None:
    """Declare ``--operator``, the one who runs the command unless said otherwise."""
    parser.add_argument(
        "--operator",
        metavar="NAME",
        default=_user_name(),
        help="who does this, recorded by the server (default: %(default)s)",
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def add_url(parser: argparse._ActionsContainer) -> None:
    """Declare ``--url``."""
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


def reference(text: str) -> tuple[str, int | None]:
    """Read ``PRODUCT[@VERSION]``."""
    try:
        return parse_product(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive_int(text: str) -> int:
    """Read an integer from 1."""
    value = _int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def int_from_zero(text: str) -> int:
    """Read an integer from 0."""
    value = _int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def inner_share(text: str) -> float:
    """Read a share in (0, 1)."""
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def share_from_zero(text: str) -> float:
    """Read a share in [0, 1)."""
    value = _float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def share_to_one(text: str) -> float:
    """Read a share in (0, 1]."""
    value = _float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 1")
    return value


def distance(text: str) -> float:
    """Read a score or distance: a finite number from 0."""
    value = _float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number from 0")
    return value


def positive_distance(text: str) -> float:
    """Read a finite number above 0."""
    value = distance(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _int(text: str) -> int:
    return _number(int, text, "an integer")


def _float(text: str) -> float:
    return _number(float, text, "a number")


def _number(kind: Any, text: str, what: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
