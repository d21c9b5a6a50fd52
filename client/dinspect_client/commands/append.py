"""``dinspect append PRODUCT [IMAGES…]``."""

from __future__ import annotations

import argparse

from dinspect_client.client import InspectionClient
from dinspect_client.commands import arguments
from dinspect_client.commands.enroll import report_version
from dinspect_client.commands.text import progress_bar
from dinspect_client.images import expand_paths


class AppendCommand:
    """``dinspect append PRODUCT [IMAGES…]``."""

    help = "make a new version of a product from the one in force and more images of good parts"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        arguments.add_product(parser)
        arguments.add_images(parser, optional=True)
        arguments.add_good_images(parser)
        arguments.add_only_method(
            parser, "students are trained anew, on all images, with `dinspect train`"
        )
        arguments.add_thresholds(parser, "default: found anew at the same rates, or as set by hand")
        arguments.add_no_activate(parser)
        arguments.add_operator(parser)
        arguments.add_url(parser)
        arguments.add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Append, with progress on a terminal's stderr; return 0.

        Raises:
            WrongUse: If there is no image at all.
        """
        if not args.images and not args.good:
            raise arguments.WrongUse("nothing to append; name images, or others with --good")
        thresholds = arguments.chosen_thresholds(args)
        images, good_images = expand_paths(args.images), expand_paths(args.good)
        with InspectionClient(args.url) as client:
            total = len(images) + len(good_images)
            with progress_bar(args.product, total=total, unit="image") as bar:
                version = client.append(
                    args.product,
                    images,
                    good_images=good_images,
                    **thresholds,
                    activate=not args.no_activate,
                    operator=args.operator,
                    on_progress=lambda done, _: bar.update(done - bar.n),
                )
            report_version(client, version, args)
        return 0
