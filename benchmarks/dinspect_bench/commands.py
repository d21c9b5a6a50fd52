"""The commands ``dinspect demo``, ``study`` and ``report``. Heavy imports wait until they run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dinspect_bench.errors import BenchmarkError, MissingDependencyError

_STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "shots": (
        "shots.md",
        {"kinds": ("mono",), "shots": (1, 2), "seeds": (0, 1), "num_held_out": 3},
    ),
    "banks": (
        "banks.md",
        {
            "num_large": 10,
            "num_rounds": 1,
            "num_samples": 3,
            "num_held_out": 5,
            "precisions": ("auto",),
        },
    ),
    "products": ("products.md", {"num_products": 6, "num_loaded": 3, "num_requests": 30}),
    "zero-shot": ("zero-shot.md", {"kinds": ("mono",), "num_images": 10}),
    "l2bt-1036": (
        "l2bt_1036.md",
        {"variant_name": "dinov2_vits14", "side_px": 448, "num_samples": 2},
    ),
    "l2bt-shots": (
        "l2bt_shots.md",
        {"kinds": ("mono",), "shots": (1, 2), "seeds": (0,), "num_held_out": 3},
    ),
    "training": ("training.md", {"cases": ("quick",)}),
    "peers": ("peers.md", {"cases": ("anomaly_dino_448",), "num_rounds": 2, "num_inspected": 3}),
    "latency": (
        "latency.md",
        {
            "rows": ("s-224-1-no_mask_no_rotation", "s-224-2-agnostic", "l2bt-s-224"),
            "num_inspected": 3,
            "peak_s": 0.5,
        },
    ),
    "cpu": (
        "cpu.md",
        {
            "precisions": ("auto",),
            "latency_options": {
                "rows": ("s-224-1-no_mask_no_rotation",),
                "num_inspected": 3,
                "peak_s": 0.5,
            },
            "peers_options": {"cases": ("anomaly_dino_448",), "num_rounds": 2, "num_inspected": 3},
        },
    ),
}
"""Studies: the file of their table, and what ``--quick`` changes."""
_OF_PRECISIONS = ("banks", "peers", "latency", "cpu")
"""Studies that can be told in what precisions the server runs."""
_OF_ROWS = ("latency", "cpu")
"""Studies that can be told which rows of the latency tables to measure."""


class DemoCommand:
    """From weights to a report of real solar cells, through a real Triton server."""

    help = "export, serve, enrol and inspect real solar cells; write a report"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "--output",
            type=Path,
            default=Path("out/demo"),
            help="folder of result.json, report.html and the model repository",
        )
        parser.add_argument(
            "--build", type=Path, default=Path("build"), help="folder of exported models"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Do the demo; see `demo.run_demo` for the errors.

        Raises:
            MissingDependencyError: If a package of the demo is not installed.
        """
        from dinspect_export.threads import share_the_processor

        share_the_processor()
        try:
            from dinspect_bench.demo.run import REPORT_FILE, DemoSettings, run_demo
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"the demo needs the package {error.name}; install 'dinspect[demo]'"
            ) from error
        result = run_demo(DemoSettings(args.output, args.build))
        methods, latency = result["methods"], result["latency_ms"]
        num_images, version = methods["anomaly_dino"]["num_images"], result["server"]["version"]
        print(f"{num_images} cells through Triton {version}, p50 {latency['p50']:.1f} ms/sample")
        for name, title in (("anomaly_dino", "AnomalyDINO"), ("l2bt", "L2BT")):
            counts = methods[name]["at_threshold"]
            print(
                f"{title}: image AUROC {methods[name]['image_auroc']:.3f}, "
                f"{counts['num_false_alarms']} false alarms of {counts['num_functional']}, "
                f"{counts['num_misses']} misses of {counts['num_defective']}"
            )
        print(f"report: {args.output / REPORT_FILE}")
        return 0


class StudyCommand:
    """Accuracy by shots, time by bank size, L2BT's time by step and so on: one command each."""

    help = "measure through a server of its own and write a table to docs/results"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "study",
            choices=tuple(_STUDIES),
            help="accuracy by the number of references; time and accuracy by bank and search; "
            "memory and time with hundreds of products; the same without references; L2BT's time "
            "and memory at 1036 x 1036, step by step; L2BT's accuracy by the number of training "
            "images; its training time with the teacher in every step and once; ours beside "
            "anomalib in the same run (see `dinspect install-peers`); the papers' latency tables; "
            "both of these on one page",
        )
        parser.add_argument(
            "--artefacts",
            type=Path,
            default=Path("build/demo"),
            metavar="DIR",
            help="exported artefacts (default: %(default)s, which `make demo` makes); l2bt-1036 "
            "and training make their own, latency and peers in a folder beside it",
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the table (default: in docs/results, by the study's name); records go beside it "
            "as .jsonl, and a study that was killed goes on from them",
        )
        parser.add_argument(
            "--precision",
            nargs="+",
            metavar="NAME",
            help="of the server, as `dinspect assemble` takes it, each measured in turn; for "
            f"{' and '.join(_OF_PRECISIONS)} (default: the study's own)",
        )
        parser.add_argument(
            "--quick", action="store_true", help="a few images only, to see that it works"
        )
        parser.add_argument(
            "--rows",
            nargs="+",
            metavar="ROW",
            help="of latency and cpu: rows of the tables to measure, such as s-448-16-agnostic, "
            "l-448-1-agnostic, l2bt-b-1036 or 's-672-*' (default: those that take a quarter of an "
            "hour)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Measure and print the table.

        Raises:
            BenchmarkError: If a precision or a row is named for a study that does not take one.
            MissingDependencyError: If a package of the demo is not installed.
        """
        try:
            from dinspect_bench.studies.banks import run_bank_study
            from dinspect_bench.studies.cpu import run_cpu_study
            from dinspect_bench.studies.l2bt_shots import run_l2bt_shots_study
            from dinspect_bench.studies.l2bt_speed import run_l2bt_speed_study
            from dinspect_bench.studies.latency_protocol import run_latency_study
            from dinspect_bench.studies.peers import run_peers_study
            from dinspect_bench.studies.products import run_products_study
            from dinspect_bench.studies.shots import run_shots_study
            from dinspect_bench.studies.training import run_training_study
            from dinspect_bench.studies.zero_shot import run_zero_shot_study
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"a study needs the package {error.name}; install 'dinspect[demo]'"
            ) from error
        table, quick = _STUDIES[args.study]
        output = args.output or Path("docs/results") / table
        studies: dict[str, Callable[..., str]] = {
            "shots": partial(run_shots_study, args.artefacts),
            "banks": partial(run_bank_study, args.artefacts),
            "products": partial(run_products_study, args.artefacts),
            "zero-shot": partial(run_zero_shot_study, args.artefacts),
            "l2bt-1036": run_l2bt_speed_study,
            "l2bt-shots": partial(run_l2bt_shots_study, args.artefacts),
            "training": run_training_study,
            "peers": partial(run_peers_study, args.artefacts.parent / "latency"),
            "latency": partial(run_latency_study, args.artefacts.parent / "latency"),
            "cpu": partial(run_cpu_study, args.artefacts.parent / "latency"),
        }
        options = dict(quick) if args.quick else {}
        if args.precision:
            if args.study not in _OF_PRECISIONS:
                raise BenchmarkError(
                    f"the study {args.study} takes no --precision; "
                    f"{' and '.join(_OF_PRECISIONS)} do"
                )
            options["precisions"] = tuple(args.precision)
        if args.rows:
            if args.study not in _OF_ROWS:
                raise BenchmarkError(
                    f"the study {args.study} takes no --rows; {' and '.join(_OF_ROWS)} do"
                )
            rows = {"rows": tuple(args.rows)}
            if args.study == "cpu":
                rows = {"latency_options": options.get("latency_options", {}) | rows}
            options |= rows
        print(studies[args.study](output, **options))
        return 0


class ReportCommand:
    """One report of many records, ours beside the papers' and the peers' figures."""

    help = "write a report of records: latency, accuracy, ours beside the papers' figures"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "records",
            nargs="+",
            type=Path,
            metavar="RECORDS.jsonl",
            help="files that bench-latency, bench-accuracy and the studies wrote; several machines "
            "and commits are told apart",
        )
        parser.add_argument(
            "--output",
            type=Path,
            default=Path("out/report"),
            metavar="DIR",
            help="folder of report.md and report.html (default: %(default)s)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Read the records and write both files.

        Raises:
            MissingDependencyError: If a package of the benchmarks is not installed.
            ReportError: If a record cannot be shown; the message names file and line.
        """
        try:
            from dinspect_bench.report.writing import HTML_FILE, MARKDOWN_FILE, write_report
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"a report needs the package {error.name}; install 'dinspect[bench]'"
            ) from error
        document = write_report(args.records, args.output)
        print(document.lead)
        for caution in document.cautions:
            print(caution)
        print(f"report: {args.output / HTML_FILE}, {args.output / MARKDOWN_FILE}")
        return 0
