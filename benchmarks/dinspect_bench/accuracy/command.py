"""The ``bench-accuracy`` program: the papers' figures on a data set, through the served path."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinspect_bench.datasets.category import first_names
from dinspect_bench.datasets.few_shot import SELECTIONS
from dinspect_client import wire
from dinspect_client.commands import arguments
from dinspect_client.commands.enroll import PREPROCESSINGS

if TYPE_CHECKING:
    from dinspect_bench.datasets.category import Category
    from dinspect_bench.records import Record

EXIT_OK = 0
EXIT_USE = 2
EXIT_INTERRUPTED = 130
ALL_SHOTS = "full"
LAYOUTS = ("mvtec", "visa")
_TIMEOUT_S = 300.0
_ENROLL_TIMEOUT_S = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        0 when everything is on record, 2 for wrong use, bad data or a file that the system refuses,
        3 when the server cannot be reached or refused something, 130 when it was interrupted.
    """
    from dinspect_export.threads import share_the_processor

    args = build_parser().parse_args(argv)
    share_the_processor()  # before anything imports PyTorch
    try:
        records = run_benchmark(args)
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where it was")
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        extra = "bench,export" if "l2bt" in args.method else "bench"
        _complain(f"{error}; run: pip install '.[{extra}]'")
        return EXIT_USE
    except Exception as error:
        status = getattr(error, "exit_status", None)
        if isinstance(status, int):
            _complain(str(error))
            return status
        if isinstance(error, OSError):
            _complain(_refusal_of_the_system(error))
            return EXIT_USE
        raise
    sys.stdout.write(report_text(records, as_json=args.json) + "\n")
    return EXIT_OK


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="bench-accuracy",
        description="Measure accuracy on a data set through a server: every category is enrolled, "
        "every test image inspected. What is on record already is not measured again.",
    )
    _add_data(parser)
    _add_protocol(parser)
    group = parser.add_argument_group("server")
    where = group.add_mutually_exclusive_group()
    arguments.add_url(where)
    where.add_argument(
        "--serve", type=Path, metavar="REPOSITORY", help="start this repository for the measurement"
    )
    group.add_argument(
        "--keep", action="store_true", help="leave the products on the server (bench-accuracy-...)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="records, one a line (default: out/accuracy/DATA_SET.jsonl); pictures go beside it",
    )
    parser.add_argument("--json", action="store_true", help="print the records as one JSON list")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "data_set",
        type=Path,
        help="folder in MVTec AD's layout (or one category of it), or VisA's",
    )
    group.add_argument("--layout", choices=LAYOUTS, help="default: seen by the files")
    group.add_argument(
        "--name",
        help="what to call the data set (default: mvtec_ad or visa where all categories of those "
        "are there, else the folder's name)",
    )
    group.add_argument("--categories", nargs="+", metavar="NAME", help="default: all")
    group.add_argument(
        "--one-geometry",
        action="store_true",
        help="leave out images of another aspect ratio than the commonest of their category, and "
        "say so; without it such a category is refused",
    )
    group.add_argument(
        "--textures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="categories without background, never masked (those of MVTec AD are known)",
    )
    group.add_argument(
        "--rotated",
        nargs="+",
        default=[],
        metavar="NAME",
        help="categories whose parts come in any orientation, for the setting 'informed'",
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--method",
        nargs="+",
        choices=wire.METHODS,
        default=[wire.Method.ANOMALY_DINO],
        help="default: anomaly_dino",
    )
    group.add_argument(
        "--shots",
        nargs="+",
        type=_shots,
        default=[1],
        metavar="N",
        help=f"good images of a category to learn from, or {ALL_SHOTS!r} (default: 1)",
    )
    group.add_argument(
        "--seeds", nargs="+", type=arguments.int_from_zero, default=[0, 1, 2], metavar="SEED",
        help="which images are taken (default: 0 1 2)",
    )  # fmt: skip
    group.add_argument(
        "--selection",
        choices=SELECTIONS,
        help="consecutive slices of the sorted names, as AnomalyDINO's authors take them, or a "
        "draw by the seed (default: consecutive for anomaly_dino, random for l2bt, as its paper)",
    )
    group.add_argument(
        "--resolution", type=arguments.positive_int, default=448, metavar="PX", help="default: 448"
    )
    group.add_argument(
        "--preprocessing",
        choices=PREPROCESSINGS,
        help="of anomaly_dino (default: the paper's, agnostic, and masking_only with all images)",
    )
    group.add_argument(
        "--epochs", type=arguments.positive_int, default=50, help="of l2bt (default: 50)"
    )


def run_benchmark(args: argparse.Namespace) -> list[Record]:
    """Find the data, measure what is not on record, and return all that was asked for.

    Raises:
        BenchmarkError: If the data cannot be measured. Errors of client, server and training pass
            through.
    """
    from dinspect_bench.accuracy.protocol import plan_protocols
    from dinspect_bench.accuracy.run import DataChoices, prepare_categories, run_accuracy
    from dinspect_bench.datasets.layouts import load_dataset
    from dinspect_client import InspectionClient

    dataset = load_dataset(args.data_set, args.layout, args.categories, args.name)
    choices = DataChoices(args.one_geometry, tuple(args.textures), tuple(args.rotated))
    categories = prepare_categories(dataset, choices)
    _tell_what_is_passed_over(categories)
    protocols = plan_protocols(
        dict.fromkeys(args.method),
        list(dict.fromkeys(args.shots)),
        dict.fromkeys(args.seeds),
        selection=args.selection,
        resolution=args.resolution,
        preprocessing=args.preprocessing,
        epochs=args.epochs,
    )
    output = args.output or Path("out/accuracy") / f"{dataset.name}.jsonl"
    with (
        _server(args) as url,
        InspectionClient(url, timeout_s=_TIMEOUT_S, enroll_timeout_s=_ENROLL_TIMEOUT_S) as client,
    ):
        return run_accuracy(
            client, url, dataset.name, categories, protocols, output, keep=args.keep
        )


def report_text(records: Sequence[Record], *, as_json: bool) -> str:
    """The records as one JSON list, or as tables."""
    if as_json:
        return json.dumps(records, indent=2, allow_nan=False)
    from dinspect_bench.accuracy.accuracy_table import format_accuracy

    return format_accuracy(records)


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    """Address of the server that is named, or of one started for the measurement."""
    if args.serve is None:
        yield args.url
        return
    from dinspect_server.embedded import EmbeddedTriton

    with EmbeddedTriton(args.serve) as server:
        yield server.grpc_url


def _tell_what_is_passed_over(categories: Sequence[Category]) -> None:
    """So that an image of an ending that nobody reads is not missed in silence."""
    for one in categories:
        if one.passed_over:
            named = first_names(map(one.name_of, one.passed_over))
            _complain(
                f"{one.name}: {len(one.passed_over)} files are passed over, whose ending is no "
                f"image's: {named}"
            )


def _shots(text: str) -> int | None:
    return None if text == ALL_SHOTS else arguments.positive_int(text)


def _refusal_of_the_system(error: OSError) -> str:
    """Which file cannot be read or written, and why."""
    where = "a file" if error.filename is None else error.filename
    return (
        f"cannot read or write {where}: {error.strerror or error}; what was measured before is on "
        "record, and the same command goes on where it was"
    )


def _complain(message: str) -> None:
    sys.stderr.write(f"bench-accuracy: {message}\n")
