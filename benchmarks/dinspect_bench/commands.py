"""The ``dinspect demo`` command. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

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
