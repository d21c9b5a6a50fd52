"""``dinspect enroll PRODUCT IMAGES…``."""

from __future__ import annotations

import argparse
import json
import sys

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.text import (
    describe_version,
    foreground_note,
    loss_note,
    progress_bar,
    threshold_note,
)
from dinspect_client.images import expand_paths
from dinspect_client.versions import ProductVersion

PREPROCESSINGS = (
    "agnostic",
    "informed",
    "masking_only",
    "no_mask_no_rotation",
    "no_mask_rotation",
    "mask_no_rotation",
    "mask_rotation",
)
SEARCHES = ("exact", "ivf")
"""Names as the server knows them; a test holds both to it."""


class EnrollCommand:
    """``dinspect enroll PRODUCT IMAGES…``."""

    help = "enrol a product, or a new version of it, from images of good parts"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_images(parser)
        arguments.add_good_images(parser)
        arguments.add_only_method(parser, "students are trained on images with `dinspect train`")
        _add_preprocessing(parser)
        _add_scoring(parser)
        arguments.add_thresholds(parser, "default: calibrated on the images, rates 5 % and 0")
        arguments.add_no_activate(parser)
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Enrol, with progress on a terminal's stderr; return 0."""
        thresholds = arguments.chosen_thresholds(args)
        images, good_images = expand_paths(args.images), expand_paths(args.good)
        with InspectionClient(args.url) as client:
            total = len(images) + len(good_images)
            with progress_bar(args.product, total=total, unit="image") as bar:
                version = client.enroll(
                    args.product,
                    images,
                    resolution=args.resolution,
                    preprocessing=args.preprocessing,
                    rotated=args.rotated,
                    texture=args.texture,
                    num_neighbours=args.num_neighbours,
                    image_score=args.image_score,
                    search=args.search,
                    coreset_fraction=args.coreset_fraction,
                    **thresholds,
                    activate=not args.no_activate,
                    operator=args.operator,
                    good_images=good_images,
                    on_progress=lambda done, _: bar.update(done - bar.n),
                )
            report_version(client, version, args)
        return 0


def report_version(
    client: InspectionClient, version: ProductVersion, args: argparse.Namespace
) -> None:
    """Print a version made from images, and what is to be known of it."""
    if args.json:
        print(json.dumps(version.to_dict()))
    else:
        print(describe_version(version))
    for note in (threshold_note(version), foreground_note(version), loss_note(version)):
        if note:
            print(note, file=sys.stderr)
    if args.no_activate:
        products = client.products(version.product)
        (product,) = (one for one in products if one.method == version.method)
        if product.current != version.version:
            print(
                f"note: version {product.current} is still in force; `dinspect rollback "
                f"{version.product} {version.version}` puts the new one in force",
                file=sys.stderr,
            )


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is compared")
    arguments.add_resolution(group)
    group.add_argument(
        "--preprocessing",
        choices=PREPROCESSINGS,
        help="background masking and rotation of the images: agnostic (default: masking if a test "
        "on the first image says so, each image turned in 8 steps), informed (turned only with "
        "--rotated), masking_only, or a row of the paper's Table 9b",
    )
    group.add_argument(
        "--rotated",
        action="store_true",
        help="with informed: parts come before the camera in any orientation",
    )
    group.add_argument(
        "--texture",
        action="store_true",
        help="parts are a surface without background, which is never masked",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is compared")
    group.add_argument(
        "--num-neighbours",
        type=arguments.positive_int,
        metavar="K",
        help="patches of the bank that each patch is compared with; the mean counts (default: 1)",
    )
    arguments.add_image_score(group)
    group.add_argument(
        "--search",
        choices=SEARCHES,
        help="exact (default), or ivf: approximate, faster in banks of many images",
    )
    group.add_argument(
        "--coreset-fraction",
        type=arguments.share_to_one,
        metavar="C",
        help="share of the patches to keep, in (0, 1] (default: 1); nothing can be appended to "
        "less than all",
    )
