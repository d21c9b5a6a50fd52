"""One PyTorch module to one ONNX file: what every graph of this package has in common.

The same module with the same weights gives the same bytes, whatever folder it is written in, and
the file is checked before anyone else reads it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 18
MAX_BATCH = 8


def patch_tokens_name(layer: int) -> str:
    """Name of the tensor that carries the patch tokens of a one-based block, in every graph."""
    return f"patch_tokens_{layer}"


def write_graph(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = OPSET,
    max_batch: int = MAX_BATCH,
    external_data: bool = False,
) -> None:
    """Export a module whose inputs and outputs all count the batch in their first dimension.

    Args:
        model: The module, in evaluation mode; its precision is the graph's.
        example_inputs: One tensor per input. The first dimension becomes dynamic and must hold at
            least 2 items, or the exporter takes the batch for a constant; the others stay as given.
        path: Target file.
        input_names: Names of the graph's inputs, as many as ``example_inputs``.
        output_names: Names of the graph's outputs.
        opset: ONNX operator set.
        max_batch: Largest batch the graph is exported for; the smallest is 1.
        external_data: Whether the weights go into a file of their own beside ``path``, which they
            must when they exceed the 2 GB that one ONNX file can hold.

    Raises:
        onnx.checker.ValidationError: If the exporter wrote an invalid graph.
    """
    import onnx

    batch = torch.export.Dim("batch", min=1, max=max_batch)
    with _quiet_exporter():
        torch.onnx.export(
            model,
            # Copies, because the exporter takes one tensor given twice for one input used twice.
            tuple(tensor.clone() for tensor in example_inputs),
            str(path),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple({0: batch} for _ in example_inputs),
            opset_version=opset,
            dynamo=True,
            external_data=external_data,
            verbose=False,
        )
    _strip_traces(path)
    onnx.checker.check_model(str(path), full_check=True)


def _strip_traces(path: Path) -> None:
    """Remove the exporter's notes on where each node came from.

    They hold paths of this machine, so the same weights exported in another folder would have
    another hash, and every memory bank of the one would be refused by the other.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    graph.doc_string = ""
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notes about packages it can do without and its own deprecations."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # All inputs of a graph share one batch, which is what is meant and no mistake.
            warnings.filterwarnings(
                "ignore", "# The axis name: batch will not be used", UserWarning
            )
            yield
    finally:
        registration.setLevel(level)
