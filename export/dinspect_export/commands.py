"""The commands ``dinspect export``, ``build`` and ``verify``. Heavy imports wait until they run."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_export.errors import StorageError
from dinspect_export.recipes import PRECISIONS
from dinspect_export.variants import VARIANTS

if TYPE_CHECKING:
    from dinspect_export.build import Outcome
    from dinspect_export.verify import Verdict

_NO = 1
_Run = Callable[[Any, argparse.Namespace], int]


def _refusals_named(run: _Run) -> _Run:
    """Make what the system refuses (a file nobody may read, say) an error with the file's name."""

    @functools.wraps(run)
    def wrapped(command: Any, args: argparse.Namespace) -> int:
        try:
            return run(command, args)
        except PermissionError as error:
            raise StorageError(f"{error.filename}: {error.strerror}; change its mode") from error

    return wrapped


class ExportCommand:
    """Checkpoint to ONNX, proven against PyTorch on real images."""

    help = "export a backbone to ONNX and prove it against PyTorch"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument(
            "--weights",
            default="meta",
            help="'meta' (downloaded once), a .pth or .safetensors file, a folder in Hugging "
            "Face's layout, or 'packaged' (demo and tests only)",
        )
        parser.add_argument("--backbone", default="dinov2_vits14", choices=sorted(VARIANTS))
        parser.add_argument(
            "--size",
            action="append",
            metavar="448|448x588",
            help="input size in pixels, height x width, multiples of the patch; repeatable "
            "(default 448)",
        )
        parser.add_argument(
            "--layers",
            type=int,
            nargs="+",
            help="blocks whose tokens to put out (default: 8 and 12 of 12, 16 and 24 of 24, "
            "27 and 40 of 40)",
        )
        parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"])
        parser.add_argument(
            "--check-images",
            nargs="+",
            required=True,
            metavar="IMAGE",
            help="real images, folders or globs on which ONNX Runtime must agree with PyTorch",
        )
        parser.add_argument(
            "--check-references",
            nargs="+",
            default=[],
            metavar="IMAGE",
            help="two or more good images to enrol, so that image scores are compared too",
        )
        parser.add_argument("--output-dir", type=Path, default=Path("build/artefacts"))
        parser.add_argument("--cache-dir", type=Path, default=Path("build/weights"))
        parser.add_argument("--json", action="store_true", help="print the manifests as JSON")

    @_refusals_named
    def run(self, args: argparse.Namespace) -> int:
        """Export and report; see `onnx_export.export_backbones` for the errors."""
        from dinspect_export.check_images import CheckImages, find_images
        from dinspect_export.geometry import grid_from_size
        from dinspect_export.onnx_export import export_backbones
        from dinspect_export.weights_location import Weights

        patch_size = VARIANTS[args.backbone].patch_size
        artefacts = export_backbones(
            Weights(args.weights, args.backbone, args.cache_dir),
            [grid_from_size(size, patch_size) for size in args.size or ["448"]],
            args.output_dir,
            check=CheckImages(
                find_images(args.check_images, Path()), find_images(args.check_references, Path())
            ),
            layers=args.layers,
            precisions=tuple(args.precision),
        )
        if args.json:
            print(json.dumps([artefact.manifest.to_dict() for artefact in artefacts], indent=2))
            return 0
        for artefact in artefacts:
            manifest = artefact.manifest
            print(
                f"{artefact.path}: weights {manifest.weights_sha256[:12]}, "
                f"onnx {manifest.onnx_sha256[:12]}, {_figures(manifest.proof[0])}"
            )
        return 0


class BuildCommand:
    """Everything ``engines.toml`` describes, made where it is not current."""

    help = "make the graphs and engines that engines.toml describes, where they are not current"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        _add_description(parser)
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--check", action="store_true", help="only tell what is stale; exit 1 if anything is"
        )
        what.add_argument("--force", action="store_true", help="make everything, current or not")
        what.add_argument(
            "--cache-key",
            action="store_true",
            help="only print one digest over everything the artefacts depend on",
        )
        what.add_argument(
            "--prune",
            action="store_true",
            help="only remove artefacts in the output folder that are not described",
        )
        parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")

    @_refusals_named
    def run(self, args: argparse.Namespace) -> int:
        """Build, check or print the key; see `build` for the errors."""
        from dinspect_export.build import build, cache_key, check, prune, undescribed
        from dinspect_export.description import read_description

        description = read_description(args.description)
        if args.cache_key:
            print(cache_key(description))
            return 0
        if args.prune:
            for folder in prune(description):
                print(f"removed  {folder.name}")
            return 0
        found = []
        outcomes = check(description) if args.check else build(description, force=args.force)
        try:
            for outcome in outcomes:
                found.append(outcome)
                if not args.json:
                    print(_outcome_line(outcome), flush=True)
        finally:  # what was done before a failure is told, too
            if args.json:
                print(json.dumps([_outcome_record(outcome) for outcome in found], indent=2))
        if not args.json:
            for folder in undescribed(description):
                print(f"apart    {folder.name}: not described; 'dinspect build --prune' removes it")
        return _NO if any(outcome.action == "stale" for outcome in found) else 0


class VerifyCommand:
    """Every runtime against PyTorch, on real images."""

    help = "hold every runtime of what was built, and a server, against PyTorch on real images"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        _add_description(parser)
        parser.add_argument(
            "--images", nargs="+", metavar="IMAGE", help="instead of the description's [check]"
        )
        parser.add_argument(
            "--references",
            nargs="+",
            metavar="IMAGE",
            help="good images to enrol; needed with --images to compare scores",
        )
        parser.add_argument(
            "--server", metavar="HOST:PORT", help="gRPC address of a Triton server to compare too"
        )
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    @_refusals_named
    def run(self, args: argparse.Namespace) -> int:
        """Compare and report; exit 1 if a tolerance is not kept."""
        from dinspect_export.check_images import CheckImages, find_images
        from dinspect_export.description import read_description
        from dinspect_export.errors import InvalidGeometryError
        from dinspect_export.verify import verify

        images = None
        if args.images:
            images = CheckImages(
                find_images(args.images, Path()), find_images(args.references or [], Path())
            )
        elif args.references:
            raise InvalidGeometryError("--references goes with --images; give both or neither")
        verdicts = []
        description = read_description(args.description)
        try:
            for verdict in verify(description, check=images, server_url=args.server):
                verdicts.append(verdict)
                if not args.json:
                    print(_verdict_line(verdict), flush=True)
        finally:
            if args.json:
                print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
        return _NO if any(verdict.proof and verdict.proof.failures for verdict in verdicts) else 0


def _add_description(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "description",
        type=Path,
        nargs="?",
        default=Path("engines.toml"),
        help="what to build (default engines.toml); see docs/engines.md",
    )


def _outcome_line(outcome: Outcome) -> str:
    line = f"{outcome.action:8} {outcome.name}"
    if outcome.action == "current":
        return line
    reasons = "; ".join(outcome.reasons)
    if outcome.manifest is None:
        return f"{line}: {reasons}"
    proof = outcome.manifest.to_dict()["proof"]
    figures = "; ".join(map(_figures, proof)) or "not run here: no GPU"
    return f"{line} in {outcome.elapsed_s:.0f} s ({reasons}): {figures}"


def _outcome_record(outcome: Outcome) -> dict[str, object]:
    record = asdict(outcome)
    record["manifest"] = None if outcome.manifest is None else outcome.manifest.to_dict()
    return record


def _verdict_line(verdict: Verdict) -> str:
    where = f"{verdict.artefact} by {verdict.runtime}"
    if verdict.proof is None:
        return f"not run  {where}: {verdict.not_run}"
    figures = _figures(verdict.proof.figures)
    if verdict.proof.failures:
        return f"FAILED   {where}: {'; '.join(verdict.proof.failures)} ({figures})"
    return f"agrees   {where}: {figures}"


def _figures(proof: dict[str, Any]) -> str:
    if "max_distance_change" in proof:
        return (
            f"largest change of a patch distance {proof['max_distance_change']:.4%}, "
            f"of a score {proof['max_score_change']:.4%}"
        )
    text = f"worst patch cosine {proof['min_patch_cosine']:.6f}"
    if proof["max_score_change"] is None:
        return f"{text} over {proof['images']} images"
    return (
        f"{text}, largest score change {proof['max_score_change']:.3%}, "
        f"{proof['verdict_flips']} verdict flips over {proof['images']} images"
    )
