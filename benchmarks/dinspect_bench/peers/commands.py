"""The command ``dinspect install-peers``."""

from __future__ import annotations

import argparse
from pathlib import Path


class InstallPeersCommand:
    """Install what ours is compared with."""

    help = "install anomalib and its runtimes in an environment of their own, for `study peers`"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "--location",
            type=Path,
            help="folder of the environment, about 2 GB (default: $DINSPECT_PEERS, else inside "
            "this environment)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Install, or leave an installation as it is."""
        from dinspect_bench.peers.installation import default_location, install_peers

        install_peers(args.location or default_location(), lambda text: print(text, flush=True))
        return 0
