"""The ``dinspect export`` command. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dinspect_export.variants import VARIANTS


class ExportCommand:
    """Checkpoint to ONNX, proven against PyTorch on real images."""

    help = "export a backbone to ONNX and prove it against PyTorch"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "--weights",
            default="meta",
            help="'meta' (downloaded once), a .pth file, or 'packaged' (demo and tests only)",
        )
        parser.add_argument("--backbone", default="dinov2_vits14", choices=sorted(VARIANTS))
        parser.add_argument(
            "--size",
            action="append",
            metavar="448|448x588",
            help="input size in pixels, height x width, multiples of 14; repeatable (default 448)",
        )
        parser.add_argument(
            "--layers", type=int, nargs="+", help="blocks whose tokens to put out (default: last)"
        )
        parser.add_argument(
            "--check-images",
            type=Path,
            nargs="+",
            required=True,
            help="real images on which ONNX Runtime must agree with PyTorch",
        )
        parser.add_argument("--output-dir", type=Path, default=Path("build/artefacts"))
        parser.add_argument("--cache-dir", type=Path, default=Path("build/weights"))
        parser.add_argument("--json", action="store_true", help="print the manifests as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Export and report; see `onnx_export.export_backbone` for the errors."""
        from dinspect_export.geometry import grid_from_size
        from dinspect_export.onnx_export import export_backbone

        patch_size = VARIANTS[args.backbone].patch_size
        artefacts = export_backbone(
            args.weights,
            args.backbone,
            [grid_from_size(size, patch_size) for size in args.size or ["448"]],
            args.output_dir,
            check_images=args.check_images,
            cache_dir=args.cache_dir,
            layers=args.layers,
        )
        if args.json:
            print(json.dumps([artefact.manifest.to_dict() for artefact in artefacts], indent=2))
        else:
            for artefact in artefacts:
                manifest = artefact.manifest
                print(
                    f"{artefact.path}: weights {manifest.weights_sha256[:12]}, "
                    f"onnx {manifest.onnx_sha256[:12]}, worst patch "
                    f"{manifest.max_cosine_distance:.1e} (allowed {manifest.tolerance:.0e})"
                )
        return 0
