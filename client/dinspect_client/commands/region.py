"""``dinspect region PRODUCT``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.in_force import version_in_force
from dinspect_client.commands.text import describe_thresholds, title
from dinspect_client.versions import ProductVersion


class RegionCommand:
    """``dinspect region PRODUCT``."""

    help = "show which part of a product's image counts, or change it"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_only_method(parser, "students inspect the whole image")
        roi = parser.add_mutually_exclusive_group()
        roi.add_argument(
            "--roi",
            nargs=4,
            type=arguments.int_from_zero,
            metavar=("X", "Y", "W", "H"),
            help="inspect only this rectangle, in pixels of the enrolled images",
        )
        roi.add_argument("--whole-image", action="store_true", help="inspect the whole image again")
        mask = parser.add_mutually_exclusive_group()
        mask.add_argument(
            "--ignore-mask",
            type=Path,
            metavar="FILE",
            help="image of the product's shape, bright where nothing counts",
        )
        mask.add_argument(
            "--clear-ignore-mask", action="store_true", help="ignore nothing any more"
        )
        parser.add_argument(
            "--min-defect-area",
            type=arguments.int_from_zero,
            metavar="N",
            help="smaller defects do not count, in pixels of the references; 0 for any",
        )
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Show, or make a version of another region; return 0."""
        chosen: dict[str, Any] = {
            "roi_px": [] if args.whole_image else args.roi,
            "ignore_mask": args.ignore_mask,
            "clear_ignore_mask": args.clear_ignore_mask or None,
            "min_defect_area_px": args.min_defect_area,
        }
        given = {key: value for key, value in chosen.items() if value is not None}
        with InspectionClient(args.url) as client:
            if given:
                version = client.set_region(args.product, **given, operator=args.operator)
            else:
                # Every version by the default method is one: only those have a region.
                version = cast(ProductVersion, version_in_force(client, args.product))
        if args.json:
            whole = version.to_dict()
            keys = ("product", "version", "image_size", "grid", "region", "threshold")
            print(json.dumps({key: whole[key] for key in keys}))
        else:
            print(_describe(version))
        return 0


def _describe(version: ProductVersion) -> str:
    region = version.region
    num_patches = version.grid[0] * version.grid[1]
    roi = "the whole image"
    if region.roi_px is not None:
        x, y, width, height = region.roi_px
        roi = f"{width} x {height} px from x {x}, y {y}"
    if region.ignore_mask_sha256 is not None:
        roi += f" without what mask {region.ignore_mask_sha256[:12]} ignores"
    area = region.min_defect_area_px
    lines = [
        f"{title(version)} is in force: {roi}, "
        f"{region.num_inspected_patches} of {num_patches} patches",
        f"defects of {area} pixels or more count" if area else "defects of any size count",
        describe_thresholds(version),
    ]
    if region.num_inspected_patches < num_patches:
        lines += [row.replace("0", ".").replace("1", "#") for row in region.inspected]
    return "\n".join(lines)
