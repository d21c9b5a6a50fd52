"""The backbones of a running server that students can be trained for, as the server says itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dinspect_client import wire
from dinspect_export.variants import variant_by_name
from dinspect_server.errors import ServerUnreachableError, TrainingInputError

_TIMEOUT_S = 30.0


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
        computed_by: What its tokens depend on besides: file, runtime and precision.
    """

    label: str
    name: str
    grid: tuple[int, int]
    layers: tuple[int, ...]
    dim: int
    onnx_sha256: str
    computed_by: str

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
            sizes = json.loads(_parameters(client, wire.MANAGE_MODEL)["served_sizes"])
            found = [
                _backbone(client, size)
                for size in sizes
                if size["grid"][0] == size["grid"][1] and len(size["layers"]) > 1
            ]
    except InferenceServerException as error:
        if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
            raise ServerUnreachableError(f"no server answers at {url}: {error}") from error
        raise TrainingInputError(f"the server at {url} is none of ours: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingInputError(
            f"the server at {url} does not say what students need ({error!r}); assemble its "
            "repository anew with this version"
        ) from error
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
        layers: Blocks ``(j, k)``; None for those of the paper: 8 and 12 of 12, and so on.

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
    pair = layers or _usual_blocks(chosen)
    if not set(pair) <= set(chosen.layers) or pair[0] >= pair[1]:
        raise TrainingInputError(
            f"blocks {pair[0]} and {pair[1]} are asked for, the backbone of {chosen.label} px puts "
            f"out {', '.join(map(str, chosen.layers))}; name two of them, the lower first, or "
            "export it with --layers"
        )
    return replace(chosen, layers=pair)


def _usual_blocks(backbone: ServedBackbone) -> tuple[int, int]:
    j, k = variant_by_name(backbone.name).default_layers
    if {j, k} <= set(backbone.layers):
        return j, k
    raise TrainingInputError(
        f"the backbone of {backbone.label} px does not put out blocks {j} and {k}, but "
        f"{', '.join(map(str, backbone.layers))}; say which two with --layers"
    )


def _backbone(client: Any, size: Mapping[str, Any]) -> ServedBackbone:
    return ServedBackbone(
        label=size["label"],
        name=size["name"],
        grid=(size["grid"][0], size["grid"][1]),
        layers=tuple(size["layers"]),
        dim=size["dim"],
        onnx_sha256=size["onnx_sha256"],
        computed_by=_computed_by(client, size),
    )


def _computed_by(client: Any, size: Mapping[str, Any]) -> str:
    if size["native_runtime"]:
        parts = (size["native_runtime"], size["native_precision"])
    else:
        parameters = _parameters(client, size["backbone"])
        parts = (parameters["runtime"], parameters["precision"])
    return " ".join((size["file_sha256"], *parts))


def _parameters(client: Any, model: str) -> dict[str, str]:
    answer = client.get_model_config(model, as_json=True, client_timeout=_TIMEOUT_S)
    parameters = answer["config"]["parameters"]
    return {key: value["string_value"] for key, value in parameters.items()}
