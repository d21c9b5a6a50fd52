"""One answer known in advance, asked of a server that says it is ready.

A Python backend with the wrong numpy is "ready" too, and hands every tensor over filled with its
first element. An image of noise that needs no resizing must come back pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dinspect_client import wire
from dinspect_server.errors import StartError
from dinspect_server.triton_config import PIXELS

_TIMEOUT_S = 30.0


def check_round_trip(client: Any, labels: Sequence[str]) -> str:
    """Send noise through each input size's preprocessing and compare.

    Args:
        client: Connection to the server's gRPC endpoint.
        labels: Input sizes, e.g. ``448`` or ``448x588``.

    Returns:
        The server's name and version.

    Raises:
        StartError: If anything else comes back.
    """
    import tritonclient.grpc as triton

    try:
        for label in labels:
            sides = [int(side) for side in label.split("x")]
            noise = np.random.default_rng(0).integers(
                0, 256, (1, sides[0], sides[-1], 3), dtype=np.uint8
            )
            image = triton.InferInput(wire.IMAGE_RGB.name, noise.shape, "UINT8")
            image.set_data_from_numpy(noise)
            model = f"preprocess_{label}_raw"
            answer = client.infer(model, [image], client_timeout=_TIMEOUT_S).as_numpy(PIXELS)
            if answer is None or not np.array_equal(answer, noise):
                raise StartError(
                    f"size {label}: the server does not hand back the image it was sent; its "
                    "Python backend is broken (numpy 2 in its interpreter does this)"
                )
        metadata = client.get_server_metadata(client_timeout=_TIMEOUT_S)
        return f"{metadata.name} {metadata.version}"
    except triton.InferenceServerException as error:
        raise StartError(f"the server cannot answer a known request: {error.message()}") from error
