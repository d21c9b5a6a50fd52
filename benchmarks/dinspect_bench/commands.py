"""The commands ``dinspect demo`` and ``dinspect study``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dinspect_bench.errors import MissingDependencyError

_STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "shots": (
        "shots.md",
        {"kinds": ("mono",), "shots": (1, 2), "seeds": (0, 1), "num_held_out": 3},
    ),
    "banks": (
        "banks.md",
        {"num_large": 10, "num_rounds": 1, "num_samples": 3, "precisions": ("auto",)},
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
}
"""Studies: the file of their table, and what ``--quick`` changes."""


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
            "images; its training time with the teacher in every step and once",
        )
        parser.add_argument(
            "--artefacts",
            type=Path,
            default=Path("build/demo"),
            metavar="DIR",
            help="exported artefacts (default: %(default)s, which `make demo` makes); l2bt-1036 "
            "and training make their own",
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the table (default: in docs/results, by the study's name); records go beside it "
            "as .jsonl, and a study that was killed goes on from them",
        )
        parser.add_argument(
            "--quick", action="store_true", help="a few images only, to see that it works"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Measure and print the table.

        Raises:
            MissingDependencyError: If a package of the demo is not installed.
        """
        try:
            from dinspect_bench.studies.banks import run_bank_study
            from dinspect_bench.studies.l2bt_shots import run_l2bt_shots_study
            from dinspect_bench.studies.l2bt_speed import run_l2bt_speed_study
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
        }
        print(studies[args.study](output, **(quick if args.quick else {})))
        return 0
