"""The backbones of a running server that students can be trained for, as the server says itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dinspect_client import wire
from dinspect_server.errors import TrainingInputError


@dataclass(frozen=True)
class ServedBackbone:
    """A backbone with a square input.

    Attributes:
        label: Input size, ``448``.
        name: Backbone variant.
        grid: Patch grid.
        layers: One-based blocks whose tokens it puts out; of a chosen one the two in use.
        dim: Width of a patch token.
        onnx_sha256: Digest of its graph.
        students_precision: Precision that students are served in, as assembled.
    """

    label: str
    name: str
    grid: tuple[int, int]
    layers: tuple[int, ...]
    dim: int
    onnx_sha256: str
    students_precision: str

    @property
    def pair(self) -> tuple[int, int]:
        """The blocks ``(j, k)`` that students translate between."""
        return self.layers[0], self.layers[-1]


def served_backbones(url: str) -> list[ServedBackbone]:
    """What a server has for L2BT, smallest input first.

    Args:
        url: ``host:port`` of its gRPC endpoint.

    Raises:
        TrainingInputError: If it has no such backbone, or is no server of ours.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    try:
        with triton.InferenceServerClient(url) as client:
            sizes = json.loads(_parameter(client, wire.MANAGE_MODEL, "served_sizes"))
            found = [
                ServedBackbone(
                    label=size["label"],
                    name=size["name"],
                    grid=(size["grid"][0], size["grid"][1]),
                    layers=tuple(size["layers"]),
                    dim=size["dim"],
                    onnx_sha256=size["onnx_sha256"],
                    students_precision=_parameter(client, f"students_{size['label']}", "precision"),
                )
                for size in sizes
                if size["grid"][0] == size["grid"][1] and len(size["layers"]) > 1
            ]
    except InferenceServerException as error:
        raise TrainingInputError(f"the server at {url} cannot train students: {error}") from error
    if not found:
        raise TrainingInputError(
            f"the server at {url} has no square input size whose backbone puts out two blocks; "
            "export one, such as 1036 or 448, and assemble it"
        )
    return sorted(found, key=lambda one: one.grid)


def choose_backbone(
    served: Sequence[ServedBackbone], resolution: int | None, layers: tuple[int, int] | None
) -> ServedBackbone:
    """The backbone asked for, with the two blocks in use.

    Args:
        served: What there is, smallest input first.
        resolution: Edge of the input in pixels; None for the largest.
        layers: Blocks ``(j, k)``; None for the first and the last.

    Raises:
        TrainingInputError: If there is none of that size, or it does not put out those blocks.
    """
    chosen = served[-1]
    if resolution is not None:
        fitting = [one for one in served if one.label == str(resolution)]
        if not fitting:
            labels = ", ".join(one.label for one in served)
            raise TrainingInputError(
                f"no backbone of {resolution} px is served, there are: {labels}; export and "
                "assemble that size"
            )
        chosen = fitting[0]
    pair = layers or (chosen.layers[0], chosen.layers[-1])
    if not set(pair) <= set(chosen.layers) or pair[0] >= pair[1]:
        raise TrainingInputError(
            f"blocks {pair[0]} and {pair[1]} are asked for, the backbone of {chosen.label} px puts "
            f"out {', '.join(map(str, chosen.layers))}; name two of them, the lower first, or "
            "export it with --layers"
        )
    return replace(chosen, layers=pair)


def _parameter(client: object, model: str, key: str) -> str:
    config = client.get_model_config(model, as_json=True)["config"]  # type: ignore[attr-defined]
    value: str = config["parameters"][key]["string_value"]
    return value
