"""``dinspect rollback PRODUCT [VERSION]``."""

from __future__ import annotations

import argparse
import json

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import describe_thresholds, method_option, title
from dinspect_client.methods import called
from dinspect_client.products import ProductHistory


class RollbackCommand:
    """``dinspect rollback PRODUCT [VERSION]``."""

    help = "put another version of a product in force, by default the one before"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        parser.add_argument(
            "version",
            metavar="VERSION",
            nargs="?",
            type=arguments.positive_int,
            help="which version (default: the one that was in force before the current one)",
        )
        arguments.add_method(parser)
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Activate the version; return 0.

        Raises:
            WrongUse: If no version is named and the record of changes tells of none to go back to.
        """
        with InspectionClient(args.url) as client:
            number = args.version
            if number is None:
                history = client.history(args.product, method=args.method)
                number = _version_before(history, args.method)
            version = client.activate(
                args.product, number, method=args.method, operator=args.operator
            )
        if args.json:
            print(json.dumps(version.to_dict()))
        else:
            print(
                f"{title(version)} is in force: {describe_thresholds(version)}, "
                f"inspected by {version.ensemble}"
            )
        return 0


def _version_before(history: ProductHistory, method: str) -> int:
    product = called(history.product, method)
    before = history.version_before()
    if before is not None:
        return before
    others = [one.version for one in history.versions if one.version != history.current]
    if not others:
        raise arguments.WrongUse(
            f"version {history.current} is the only one of {product}, there is no way back"
        )
    raise arguments.WrongUse(
        f"the record of changes tells of no version of {product} to go back to from "
        f"version {history.current}; name one of {', '.join(map(str, others))}, see "
        f"`dinspect history {history.product}{method_option(method)}`"
    )
