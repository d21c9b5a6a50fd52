"""Which backbones a server runs, and in what: a figure of another one is another figure."""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple

from dinspect_bench.errors import StatisticsError
from dinspect_bench.records import Record
from dinspect_bench.served import runtime_in_force, server_errors
from dinspect_client import wire

SIZES_PARAMETER = "served_sizes"


class RunningBackbone(NamedTuple):
    """What computes patch tokens, as a record of accuracy has it.

    Attributes:
        backbone_sha256: Digest of the exported graph, which is of one input size.
        runtime: What runs it, with its version.
        precision: In what.
    """

    backbone_sha256: str
    runtime: str
    precision: str

    def key(self) -> Record:
        """The same under the keys of a record."""
        return self._asdict()


def running_backbones(grpc_url: str) -> list[RunningBackbone]:
    """The backbones of a server, one for each input size.

    Args:
        grpc_url: Server as ``host:port``.

    Raises:
        StatisticsError: If the server does not say, or is none of ours.
    """
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(grpc_url)
    with contextlib.closing(client), server_errors("which backbones it serves"):
        config = client.get_model_config(wire.MANAGE_MODEL, as_json=True)["config"]
    try:
        sizes = json.loads(config["parameters"][SIZES_PARAMETER]["string_value"])
        return [_running(grpc_url, size) for size in sizes]
    except (KeyError, TypeError, ValueError) as error:
        raise StatisticsError(
            f"the server at {grpc_url} does not say which backbones it serves ({error!r}); "
            "assemble its repository anew with this version"
        ) from error


def _running(grpc_url: str, size: dict[str, str]) -> RunningBackbone:
    if size["native_runtime"]:
        runtime, precision = size["native_runtime"], size["native_precision"]
    else:
        told = runtime_in_force(grpc_url, size["backbone"])
        runtime, precision = told["runtime"], told["precision"]
    return RunningBackbone(size["onnx_sha256"], runtime, precision)
