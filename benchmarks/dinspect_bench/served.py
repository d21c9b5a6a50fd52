"""What a running server says of itself beyond the wire contract."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import numpy as np

from dinspect_bench.errors import StatisticsError

RUNTIME_INFO = "runtime_info"


def runtime_in_force(grpc_url: str, backbone: str) -> dict[str, str]:
    """Runtime and precision a served backbone really runs in, as the model itself says.

    The config may leave the precision to the model, which decides when it loads; so the model is
    asked, with one black image.

    Args:
        grpc_url: Server as ``host:port``.
        backbone: Name of the backbone's model.

    Returns:
        At least ``runtime`` and ``precision``.

    Raises:
        StatisticsError: If the model does not say.
    """
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(grpc_url)
    with contextlib.closing(client), server_errors(f"what {backbone} runs in"):
        config = client.get_model_config(backbone, as_json=True)["config"]
        pixels = config["input"][0]
        black = np.zeros([1, *(int(size) for size in pixels["dims"])], dtype=np.uint8)
        tensor = triton.InferInput(pixels["name"], list(black.shape), "UINT8")
        tensor.set_data_from_numpy(black)
        wanted = [triton.InferRequestedOutput(RUNTIME_INFO)]
        answer = client.infer(backbone, [tensor], outputs=wanted).as_numpy(RUNTIME_INFO)
    return runtime_from_json(answer.reshape(-1)[0], backbone)


def runtime_from_json(text: str | bytes, backbone: str) -> dict[str, str]:
    """Check a backbone's own words.

    Raises:
        StatisticsError: If ``runtime`` or ``precision`` is missing.
    """
    info = json.loads(text)
    if not isinstance(info, dict) or not {"runtime", "precision"} <= info.keys():
        raise StatisticsError(f"{backbone} says {info!r}, without runtime and precision")
    return info


@contextlib.contextmanager
def server_errors(what: str) -> Iterator[None]:
    """Turn tritonclient's error into ours.

    Args:
        what: What the server was asked to show.
    """
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise StatisticsError(f"the server does not show {what}: {error}") from error
