"""``dinspect delete PRODUCT[@VERSION]``."""

from __future__ import annotations

import argparse
import json
import sys

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.methods import called


class DeleteCommand:
    """``dinspect delete PRODUCT[@VERSION]``."""

    help = "delete a version that is not in force, or a product with all its versions, for good"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        parser.add_argument(
            "reference",
            metavar="PRODUCT[@VERSION]",
            type=arguments.reference,
            help="a version, as screw@3, or the product as a whole, as screw",
        )
        arguments.add_method(parser)
        parser.add_argument("--yes", action="store_true", help="do not ask")
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Delete, after asking; return 0, or 1 if the answer is no.

        Raises:
            WrongUse: If nobody can be asked and ``--yes`` is not given.
        """
        name, version = args.reference
        product = called(name, args.method)
        if not args.yes and not sys.stdin.isatty():
            raise arguments.WrongUse(
                "deleting cannot be undone, and there is no terminal to ask at; say --yes"
            )
        with InspectionClient(args.url) as client:
            if not args.yes and not _agreed(client, name, version, args.method):
                print("nothing was deleted", file=sys.stderr)
                return 1
            deleted = client.delete(name, version, method=args.method, operator=args.operator)
        if args.json:
            print(json.dumps({"product": name, "deleted": list(deleted)}))
        elif version is None:
            print(f"{product} is deleted with all its versions: {', '.join(map(str, deleted))}")
        else:
            print(f"{product} version {version} is deleted")
        return 0


def _agreed(client: InspectionClient, name: str, version: int | None, method: str) -> bool:
    """Ask at the terminal. Not on stdout: that may go elsewhere."""
    product = called(name, method)
    what = f"version {version} of {product}"
    if version is None:
        history = client.history(name, method=method)
        versions = ", ".join(str(one.version) for one in history.versions)
        what = f"{product} with all its versions ({versions})"
    print(f"delete {what} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
