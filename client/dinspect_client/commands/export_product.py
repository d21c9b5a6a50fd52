"""``dinspect export-product PRODUCT[@VERSION] FILE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import progress_bar, shown


class ExportProductCommand:
    """``dinspect export-product PRODUCT[@VERSION] FILE``."""

    help = "write a version of a product to one file, for another server or for safe keeping"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument(
            "reference",
            metavar="PRODUCT[@VERSION]",
            type=arguments.reference,
            help="the version in force, as screw, or another, as screw@3",
        )
        parser.add_argument("file", metavar="FILE", type=Path, help="a ZIP file to write")
        arguments.add_only_method(parser, arguments.NO_STUDENTS)
        parser.add_argument(
            "--overwrite", action="store_true", help="replace the file if there is one already"
        )
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Export, with progress on a terminal's stderr; return 0."""
        name, number = args.reference
        with (
            InspectionClient(args.url) as client,
            progress_bar(name, total=None, unit="B") as bar,
        ):
            version = client.export_product(
                name if number is None else f"{name}@{number}",
                args.file,
                overwrite=args.overwrite,
                on_progress=lambda done: bar.update(done - bar.n),
            )
        if args.json:
            print(json.dumps({"file": str(args.file), **version.to_dict()}))
        else:
            num_bytes = args.file.stat().st_size
            print(f"{version.reference} -> {shown(args.file)}, {num_bytes / 2**20:.1f} MiB")
        return 0
