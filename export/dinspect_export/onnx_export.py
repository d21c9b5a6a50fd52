"""Backbones from PyTorch to ONNX, proven on real images before anything gets its final name."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.numpy import save

from dinspect_export.artefact_store import exclusive, staged_folder
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.check_images import CheckImages
from dinspect_export.checkpoints import Checkpoint, load_checkpoint, network_from_checkpoint
from dinspect_export.errors import InvalidGeometryError
from dinspect_export.manifest import (
    KNOWN_ANSWER_FILE,
    MODEL_FILE,
    Artefact,
    BackboneManifest,
    sha256_of_file,
    write_manifest,
)
from dinspect_export.onnx_graph import write_graph
from dinspect_export.precision import with_half_matmuls
from dinspect_export.proof import Proof
from dinspect_export.quantisation import quantise_linear_layers
from dinspect_export.recipes import BackboneRecipe, backbone_recipe, patch_tokens_name
from dinspect_export.runtimes import PIXELS, OnnxRuntimeRunner, PyTorchRunner
from dinspect_export.variants import variant_by_name
from dinspect_export.verification import Reference
from dinspect_export.weights_location import Weights


class BackboneExporter:
    """Exports graphs of one set of weights; loads and runs PyTorch once for all of them.

    Args:
        weights: The weights.
        check: Images every graph is proven on.
        output_dir: Folder of artefacts; an artefact of the same name is replaced whole.
    """

    def __init__(self, weights: Weights, check: CheckImages, output_dir: Path) -> None:
        self._weights = weights
        self._check = check
        self._output_dir = output_dir
        self._checkpoint: Checkpoint | None = None
        self._networks: dict[int, VisionTransformer] = {}
        self._reference: tuple[tuple[object, ...], Reference] | None = None

    def export(self, recipe: BackboneRecipe) -> Artefact[BackboneManifest]:
        """Write one graph, prove it, and give it its name.

        Raises:
            CheckpointError: If the weights cannot be used.
            InvalidGeometryError: If a layer, grid or check image is unusable.
            ParityError: If the graph disagrees with PyTorch; nothing is written.
            StorageError: If the artefact cannot be written; nothing of it stays.
        """
        model = self.exportable(recipe)
        target = self._output_dir / recipe.name
        with staged_folder(target) as folder:
            write_backbone(model, folder / MODEL_FILE, recipe)
            reference = self.reference(recipe)
            runner = OnnxRuntimeRunner(folder / MODEL_FILE)
            proof = reference.prove(runner, recipe.tolerances, recipe.batch[:1])
            proof.demanded_of(recipe.name)
            # One image travels with the model: the server runs it at start and refuses to serve
            # when its runtime, on its hardware, in its precision, computes something else.
            (folder / KNOWN_ANSWER_FILE).write_bytes(save(reference.known_answer()))
            manifest = self._manifest(recipe, folder, proof)
            write_manifest(folder, manifest)
        return Artefact(target, manifest)

    def exportable(self, recipe: BackboneRecipe) -> ExportableBackbone:
        """The backbone in FP32 for the recipe's grid and layers."""
        depth = variant_by_name(recipe.variant).depth
        if not recipe.layers or not 1 <= min(recipe.layers) <= max(recipe.layers) <= depth:
            raise InvalidGeometryError(
                f"layers {list(recipe.layers)} must be ascending block numbers within 1..{depth}"
            )
        last = max(recipe.layers)
        if last not in self._networks:
            self._networks[last] = network_from_checkpoint(self.checkpoint, depth=last)
        return ExportableBackbone(self._networks[last], recipe.grid, recipe.layers).eval()

    def reference(self, recipe: BackboneRecipe) -> Reference:
        """PyTorch's answer to the check images; kept for the next precision of the same size."""
        key = (recipe.grid, recipe.layers)
        if self._reference is None or self._reference[0] != key:
            model = self.exportable(recipe)
            answer = Reference(PyTorchRunner(model), self._check, model.input_size)
            self._reference = (key, answer)
        return self._reference[1]

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights, read when first needed."""
        if self._checkpoint is None:
            weights = self._weights
            self._checkpoint = load_checkpoint(weights.source, weights.variant, weights.cache_dir)
        return self._checkpoint

    def _manifest(self, recipe: BackboneRecipe, folder: Path, proof: Proof) -> BackboneManifest:
        variant = variant_by_name(recipe.variant)
        return BackboneManifest(
            name=recipe.name,
            recipe=recipe.to_dict(),
            files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
            versions=recipe.versions,
            weights_source=self.checkpoint.source,
            weights_sha256=self.checkpoint.sha256,
            precision=recipe.precision,
            opset=recipe.opset,
            batch=list(recipe.batch),
            grid=list(recipe.grid),
            layers=list(recipe.layers),
            dim=variant.dim,
            variant=variant.name,
            proof=[proof.figures],
            tolerances=asdict(recipe.tolerances),
            patch_size=variant.patch_size,
            fine_tuned=self.checkpoint.fine_tuned,
        )


def write_backbone(model: ExportableBackbone, path: Path, recipe: BackboneRecipe) -> None:
    """Write the graph: ``pixels`` uint8 NHWC in, ``patch_tokens_<layer>`` FP32 out.

    Args:
        model: The backbone in FP32 for its input size; left as it is.
        path: Target file.
        recipe: Gives precision, opset and batch.
    """
    if recipe.precision == "int8":
        _write_quantised(model, path, recipe)
        return
    if recipe.precision == "fp16":
        model = ExportableBackbone(with_half_matmuls(model.network), model.grid, model.layers)
    height, width = model.input_size
    write_graph(
        model.eval(),
        [torch.zeros(1, height, width, 3, dtype=torch.uint8)],
        path,
        input_names=[PIXELS],
        output_names=[patch_tokens_name(layer) for layer in model.layers],
        opset=recipe.opset,
        batch=recipe.batch,
    )


def _write_quantised(model: ExportableBackbone, path: Path, recipe: BackboneRecipe) -> None:
    with tempfile.TemporaryDirectory(prefix="dinspect-int8-") as folder:
        whole = Path(folder) / MODEL_FILE
        write_backbone(model, whole, replace(recipe, precision="fp32"))
        quantise_linear_layers(whole, path)


def export_backbones(
    weights: Weights,
    grids: list[tuple[int, int]],
    output_dir: Path,
    *,
    check: CheckImages,
    layers: list[int] | None = None,
    precisions: tuple[str, ...] = ("fp32",),
) -> list[Artefact[BackboneManifest]]:
    """Export one backbone for several input sizes and precisions, whether current or not.

    Args:
        weights: The weights.
        grids: Patch grids ``(rows, columns)``.
        output_dir: Folder of artefacts; artefacts of the same names are replaced whole.
        check: Images every graph is proven on.
        layers: One-based blocks to tap, ascending; blocks after the last are left out. None taps
            the variant's default.
        precisions: Each of `recipes.PRECISIONS`.

    Raises:
        ExportError: As `BackboneExporter.export` does.
    """
    exporter = BackboneExporter(weights, check, output_dir)
    with exclusive(output_dir):
        return [
            exporter.export(
                backbone_recipe(
                    weights.variant,
                    exporter.checkpoint.sha256,
                    grid,
                    check=check,
                    layers=layers,
                    precision=precision,
                )
            )
            for grid in grids
            for precision in precisions
        ]
