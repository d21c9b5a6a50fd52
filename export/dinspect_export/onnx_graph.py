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

from dinspect_export.recipes import DEFAULT_BATCH, OPSET

_ONE_FILE_LIMIT_BYTES = 1_800_000_000


def write_graph(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = OPSET,
    batch: tuple[int, int] = DEFAULT_BATCH,
) -> None:
    """Export a module whose inputs and outputs all count the batch in their first dimension.

    Args:
        model: The module, in evaluation mode; its precision is the graph's.
        example_inputs: One tensor per input, of one item; its shape but the first dimension and
            its type are the graph's.
        path: Target file.
        input_names: Names of the graph's inputs, as many as ``example_inputs``.
        output_names: Names of the graph's outputs.
        opset: ONNX operator set.
        batch: Smallest and largest batch the graph takes; equal for a fixed one.

    Raises:
        onnx.checker.ValidationError: If the exporter wrote an invalid graph.
    """
    import onnx

    smallest, largest = batch
    dynamic = (
        {0: torch.export.Dim("batch", min=smallest, max=largest)} if smallest < largest else {}
    )
    # A dynamic batch needs an example of two or more: the exporter takes one for a constant.
    items = min(smallest + 1, largest)
    size_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    with _quiet_exporter():
        torch.onnx.export(
            model,
            tuple(tensor.expand(items, *tensor.shape[1:]).clone() for tensor in example_inputs),
            str(path),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple(dynamic for _ in example_inputs),
            opset_version=opset,
            dynamo=True,
            # One ONNX file holds 2 GB; the weights of larger models go into a file beside it.
            external_data=size_bytes > _ONE_FILE_LIMIT_BYTES,
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
