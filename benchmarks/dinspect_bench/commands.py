"""The commands ``dinspect demo`` and ``dinspect study``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinspect_bench.errors import MissingDependencyError


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
        try:
            from dinspect_bench.demo import REPORT_FILE, DemoSettings, run_demo
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"the demo needs the package {error.name}; install 'dinspect[demo]'"
            ) from error
        result = run_demo(DemoSettings(args.output, args.build))
        method, latency = result["methods"]["anomaly_dino"], result["latency_ms"]
        counts = method["at_threshold"]
        print(
            f"{method['num_images']} cells through Triton {result['server']['version']}: "
            f"image AUROC {method['image_auroc']:.3f}, "
            f"{counts['num_false_alarms']} false alarms of {counts['num_functional']}, "
            f"{counts['num_misses']} misses of {counts['num_defective']}, "
            f"p50 {latency['p50']:.1f} ms/sample\n"
            f"report: {args.output / REPORT_FILE}"
        )
        return 0


class StudyCommand:
    """Accuracy by shots, time by bank size, many products, no references: one command each."""

    help = "measure through a server of its own and write a table to docs/results"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "study",
            choices=("shots", "banks", "products", "zero-shot"),
            help="accuracy by the number of references; time and accuracy by bank and search; "
            "memory and time with hundreds of products; the same without references",
        )
        parser.add_argument(
            "--artefacts",
            type=Path,
            default=Path("build/demo"),
            metavar="DIR",
            help="exported artefacts (default: %(default)s, which `make demo` makes)",
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the table (default: docs/results/STUDY.md); records go beside it as .jsonl, and "
            "a study of shots goes on where it was",
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
            from dinspect_bench.bank_study import run_bank_study
            from dinspect_bench.products_study import run_products_study
            from dinspect_bench.shots_study import run_shots_study
            from dinspect_bench.zero_shot_study import run_zero_shot_study
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"a study needs the package {error.name}; install 'dinspect[demo]'"
            ) from error
        output = args.output or Path(f"docs/results/{args.study}.md")
        quick: dict[str, dict[str, Any]] = {
            "shots": {"kinds": ("mono",), "shots": (1, 2), "seeds": (0, 1), "num_held_out": 3},
            "banks": {"num_large": 10, "num_rounds": 1, "num_samples": 3, "precisions": ("auto",)},
            "products": {"num_products": 6, "num_loaded": 3, "num_requests": 30},
            "zero-shot": {"kinds": ("mono",), "num_images": 10},
        }
        studies: dict[str, Callable[..., str]] = {
            "shots": run_shots_study,
            "banks": run_bank_study,
            "products": run_products_study,
            "zero-shot": run_zero_shot_study,
        }
        options = quick[args.study] if args.quick else {}
        print(studies[args.study](args.artefacts, output, **options))
        return 0
