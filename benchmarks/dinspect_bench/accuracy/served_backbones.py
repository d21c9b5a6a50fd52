"""Which backbones a server runs, and in what: a figure of another one is another figure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dinspect_bench.errors import StatisticsError
from dinspect_bench.records import Record
from dinspect_bench.served import runtime_in_force, server_errors
from dinspect_client import wire

SIZES_PARAMETER = "served_sizes"
_SEARCH, _STUDENTS = "search_precision", "students_precision"
_FULL = "fp32"


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


@dataclass(frozen=True)
class Serving:
    """What a server computes with.

    Attributes:
        backbones: One for each input size.
        search_precision: Of AnomalyDINO's search; None where the server's processor decides, which
            a version it makes tells.
        students_precision: Of L2BT's students.
    """

    backbones: tuple[RunningBackbone, ...]
    search_precision: str | None
    students_precision: str


def read_serving(grpc_url: str) -> Serving:
    """What a server computes with, as its config and its backbones say.

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
        told = {name: one["string_value"] for name, one in config["parameters"].items()}
        return Serving(
            tuple(_running(grpc_url, size) for size in json.loads(told[SIZES_PARAMETER])),
            _FULL if told[_SEARCH] == _FULL else None,
            students_in_force(told),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StatisticsError(
            f"the server at {grpc_url} does not say which backbones it serves ({error!r}); "
            "assemble its repository anew with this version"
        ) from error


def students_in_force(told: Mapping[str, Any]) -> str:
    """The students' precision: OpenVINO takes FP16 and BF16 by name, all else is FP32.

    Args:
        told: Parameters of the server's config, with the students' runtime and precision.
    """
    asked = str(told[_STUDENTS])
    is_taken = told["students_runtime"] == "openvino" and asked in ("fp16", "bf16")
    return asked if is_taken else _FULL


def _running(grpc_url: str, size: dict[str, str]) -> RunningBackbone:
    if size["native_runtime"]:
        runtime, precision = size["native_runtime"], size["native_precision"]
    else:
        told = runtime_in_force(grpc_url, size["backbone"])
        runtime, precision = told["runtime"], told["precision"]
    return RunningBackbone(size["onnx_sha256"], runtime, precision)
