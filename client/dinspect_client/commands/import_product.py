"""``dinspect import-product FILE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import describe_version, progress_bar


class ImportProductCommand:
    """``dinspect import-product FILE``."""

    help = "make a version of a product from a file that export-product wrote"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument("file", metavar="FILE", type=Path, help="a file of export-product")
        arguments.add_only_method(parser, arguments.NO_STUDENTS)
        parser.add_argument(
            "--name",
            metavar="PRODUCT",
            help="what to call it (default: as it was called); the newest version of that product, "
            "if there is one",
        )
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Import, with progress on a terminal's stderr; return 0."""
        with (
            InspectionClient(args.url) as client,
            progress_bar(args.file.name, total=None, unit="B") as bar,
        ):
            version = client.import_product(
                args.file,
                args.name,
                operator=args.operator,
                on_progress=lambda done: bar.update(done - bar.n),
            )
        if args.json:
            print(json.dumps(version.to_dict()))
        else:
            print(f"{describe_version(version)}; it was {version.change.origin}")
        return 0
