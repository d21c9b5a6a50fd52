"""``dinspect products``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import table
from dinspect_client.products import Product

HEAD = (
    "PRODUCT",
    "METHOD",
    "VERSION",
    "OF",
    "IMAGE",
    "ENSEMBLE",
    "REFERENCES",
    "THRESHOLD",
    "NORMAL UP TO",
    "PREPROCESSING",
    "MEMORY",
    "CREATED",
)


class ProductsCommand:
    """``dinspect products``."""

    help = "list the products, by each method that inspects them"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print a table, or a JSON list; return 0."""
        with InspectionClient(args.url) as client:
            products = client.products()
        if args.json:
            print(json.dumps([product.to_dict() for product in products]))
        elif products:
            print(_table(products))
        else:
            print("no product is enrolled; add one with `dinspect enroll PRODUCT IMAGES`")
        return 0


def _table(products: Sequence[Product]) -> str:
    rows: list[tuple[str, ...]] = [HEAD]
    for product in products:
        height, width = product.image_size
        rows.append(
            (
                product.name,
                product.method,
                str(product.current),
                ",".join(map(str, product.versions)),
                f"{width}x{height}",
                product.ensemble,
                str(product.num_references),
                f"{product.threshold:.4g}",
                f"{product.normal_below:.4g}",
                product.preprocessing + (", masked" if product.masked else ""),
                f"{product.loaded_bytes / 2**20:.1f} MiB",
                product.created_at,
            )
        )
    return table(rows)
