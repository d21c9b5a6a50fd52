"""INT8 as part of the graph: every linear layer of the transformer, without calibration images.

Weights have one scale per output channel; the activations that enter a layer have one per token,
taken from that very token while the graph runs, so no image is outside a range that others set.
Ranges fixed on one product's images were measured to ruin others': the AUROC of solar cells stayed,
that of another product fell by 0.15. Two things keep the eight bits busy:

- Where LayerNorm comes before, its own gain and offset say which channels will be large. A share of
  that is moved from the activations into the weights, as SmoothQuant does with measured ranges
  (Xiao et al. 2023, Equation 4).
- GELU never falls below -0.17. Its result is shifted up by that and quantised without a sign, which
  doubles its resolution; what the shift adds to the product is known and taken off again.

QuantizeLinear and DequantizeLinear say all this, and OpenVINO and ONNX Runtime fuse them into INT8
kernels. Attention, patch projection, LayerNorm, softmax, GELU, the residual stream and the tokens
stay as they are: attention in INT8 was measured to be no faster.

Source: per-token activations with per-channel weights are ZeroQuant's (Yao et al. 2022, 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Floats = NDArray[np.float32]

_SMOOTHING = 0.8
"""SmoothQuant's alpha; larger makes the activations easier and the weights harder."""
_USUAL_DEVIATIONS = 3.0
"""How many standard deviations of a normalised channel count as its usual size."""
_GELU_SHIFT = 0.17
_SMALLEST_RANGE = 1e-12  # keeps a token of zeros from dividing by zero
_LARGEST_WEIGHT = 127


def quantise_linear_layers(source: Path, target: Path) -> int:
    """Write a copy of a backbone's FP32 graph whose linear layers run in INT8.

    Args:
        source: The graph; its weights may lie in a file beside it.
        target: File to write, with the weights inside: a quarter of the size.

    Returns:
        How many layers were quantised.

    Raises:
        onnx.checker.ValidationError: If the result is no valid graph.
    """
    model = onnx.load(source)
    graph = _Graph(model.graph)
    nodes: list[NodeProto] = []
    count = 0
    for node in model.graph.node:
        if graph.is_linear(node):
            nodes += _quantised(node, graph, f"int8_{count}")
            count += 1
        else:
            nodes.append(node)
    graph.replace_nodes(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return count


class _Graph:
    """An ONNX graph with what is asked of it: constants and where a tensor comes from."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}

    def is_linear(self, node: NodeProto) -> bool:
        """Whether a node multiplies tokens by weights, and not tokens by tokens as attention."""
        return node.op_type == "MatMul" and node.input[1] in self._constants

    def values(self, name: str) -> Floats:
        """A constant."""
        return numpy_helper.to_array(self._constants[name])

    def add(self, name: str, values: Any) -> str:
        """Add a constant and give back its name."""
        tensor = numpy_helper.from_array(np.asarray(values), name)
        self._constants[name] = tensor
        self._graph.initializer.append(tensor)
        return name

    def norm_before(self, name: str) -> tuple[Floats, Floats] | None:
        """Gain and offset of the LayerNorm that a tensor comes from, if it comes from one."""
        node = self._producers.get(name)
        if node is None or node.op_type != "LayerNormalization":
            return None
        return self.values(node.input[1]), self.values(node.input[2])

    def is_gelu(self, name: str) -> bool:
        """Whether a tensor is ``x / 2 * (1 + erf(...))``: a few products and sums behind an Erf."""
        waiting, seen = [name], 0
        while waiting and seen < 8:
            node = self._producers.get(waiting.pop(0))
            seen += 1
            if node is None or node.op_type not in ("Mul", "Add", "Erf"):
                continue
            if node.op_type == "Erf":
                return True
            waiting += node.input
        return False

    def replace_nodes(self, nodes: list[NodeProto]) -> None:
        """Put other nodes in place of all, and drop constants that none of them uses."""
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        del self._graph.value_info[:]  # of tensors that may be gone
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _quantised(node: NodeProto, graph: _Graph, prefix: str) -> Iterator[NodeProto]:
    """The nodes that take the place of one product of tokens by weights."""
    tokens, (result,) = node.input[0], node.output
    weights = graph.values(node.input[1])  # (inputs, outputs)
    norm = graph.norm_before(tokens)
    if norm is not None:
        factors = smoothing_factors(*norm, weights)
        weights = weights * factors[:, None]
        inverse = graph.add(f"{prefix}_smoothing", 1 / factors)
        yield helper.make_node("Mul", [tokens, inverse], [f"{prefix}_smooth"])
        tokens = f"{prefix}_smooth"
    unsigned = norm is None and graph.is_gelu(tokens)
    yield from _quantised_tokens(tokens, graph, prefix, unsigned)
    rounded, scales = rounded_weights(weights)
    yield helper.make_node(
        "DequantizeLinear",
        [
            graph.add(f"{prefix}_weights", rounded),
            graph.add(f"{prefix}_weight_scales", scales),
            graph.add(f"{prefix}_weight_zeros", np.zeros(len(scales), np.int8)),
        ],
        [f"{prefix}_dequantised_weights"],
        axis=1,
    )
    yield helper.make_node(
        "MatMul", [f"{prefix}_tokens", f"{prefix}_dequantised_weights"], [f"{prefix}_product"]
    )
    scaled = f"{prefix}_scaled" if unsigned else result
    yield helper.make_node("Mul", [f"{prefix}_product", f"{prefix}_range"], [scaled])
    if unsigned:
        added = _GELU_SHIFT * (rounded.astype(np.float64) * scales).sum(axis=0)
        less = graph.add(f"{prefix}_less", -added.astype(np.float32))
        yield helper.make_node("Add", [scaled, less], [result])


def _quantised_tokens(
    tokens: str, graph: _Graph, prefix: str, unsigned: bool
) -> Iterator[NodeProto]:
    """Tokens divided by their range, each its own, and rounded to 8 bits.

    Puts out ``<prefix>_tokens`` in [-1, 1], or [0, 1] when unsigned, and ``<prefix>_range``.
    """
    levels, integers = (255, np.dtype(np.uint8)) if unsigned else (127, np.dtype(np.int8))
    if unsigned:
        shift = graph.add(f"{prefix}_shift", np.float32(_GELU_SHIFT))
        yield helper.make_node("Add", [tokens, shift], [f"{prefix}_size"])
        tokens = f"{prefix}_size"
    else:
        yield helper.make_node("Abs", [tokens], [f"{prefix}_size"])
    channels = graph.add(f"{prefix}_channels", np.array([-1], np.int64))
    yield helper.make_node(
        "ReduceMax", [f"{prefix}_size", channels], [f"{prefix}_largest"], keepdims=1
    )
    smallest = graph.add(f"{prefix}_smallest_range", np.float32(_SMALLEST_RANGE))
    yield helper.make_node("Max", [f"{prefix}_largest", smallest], [f"{prefix}_range"])
    yield helper.make_node("Div", [tokens, f"{prefix}_range"], [f"{prefix}_unit"])
    step = [
        graph.add(f"{prefix}_step", np.float32(1 / levels)),
        graph.add(f"{prefix}_zero", np.zeros((), integers)),
    ]
    yield helper.make_node("QuantizeLinear", [f"{prefix}_unit", *step], [f"{prefix}_int8"])
    yield helper.make_node("DequantizeLinear", [f"{prefix}_int8", *step], [f"{prefix}_tokens"])


def smoothing_factors(gain: Floats, offset: Floats, weights: Floats) -> Floats:
    """What the channels of a LayerNorm's result are divided by, and the weights multiplied with.

    Args:
        gain: ``(inputs,)`` of the LayerNorm.
        offset: ``(inputs,)`` likewise.
        weights: ``(inputs, outputs)`` of the layer behind it.

    Returns:
        ``(inputs,)`` float32, above 0, with a geometric mean of 1.
    """
    activations = _USUAL_DEVIATIONS * np.abs(gain.astype(np.float64)) + np.abs(offset)
    largest = np.abs(weights.astype(np.float64)).max(axis=1)
    # A channel that is never used, or never written, must not weigh on the others' mean.
    activations, largest = (np.maximum(x, 1e-5 * x.max() or 1.0) for x in (activations, largest))
    factors = activations**_SMOOTHING / largest ** (1 - _SMOOTHING)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)


def rounded_weights(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Weights in INT8, symmetric around 0.

    Args:
        weights: ``(inputs, outputs)``.

    Returns:
        ``(inputs, outputs)`` int8 in [-127, 127], and ``(outputs,)`` float32 that they are to be
        multiplied by.
    """
    scales = np.abs(weights).max(axis=0) / _LARGEST_WEIGHT
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    rounded = np.clip(np.rint(weights / scales), -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
    return rounded.astype(np.int8), scales
