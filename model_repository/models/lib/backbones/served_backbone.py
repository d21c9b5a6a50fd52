"""The backbones this server runs, as its own models call them: one image in, patch tokens out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE
from served_size import ServedSize
from triton_requests import tensor


class ServedBackbone:
    """The backbone of one input size, called through Triton.

    Args:
        size: The input size.
    """

    def __init__(self, size: ServedSize) -> None:
        self.size = size

    def tokens(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Patch tokens ``(N, D)`` float32 of ``(H, W, 3)`` uint8 pixels."""
        tokens: NDArray[np.float32] = self._ask(pixels, f"patch_tokens_{self.size.layer}")[0]
        return tokens

    def runtime(self) -> dict[str, str]:
        """``runtime`` and ``precision`` right now; the model may have been reloaded meanwhile."""
        if self.size.native_runtime:
            return {"runtime": self.size.native_runtime, "precision": self.size.native_precision}
        height, width = (side * PATCH_SIZE for side in self.size.grid)
        black = np.zeros((height, width, 3), np.uint8)
        info: dict[str, str] = json.loads(self._ask(black, "runtime_info").reshape(-1)[0])
        return info

    def _ask(self, pixels: NDArray[np.uint8], output: str) -> NDArray[Any]:
        """One output for one image, in a batch of one."""
        response = pb_utils.InferenceRequest(
            model_name=self.size.backbone,
            requested_output_names=[output],
            inputs=[tensor("pixels", pixels[None], np.uint8)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise RuntimeError(f"{self.size.backbone}: {response.error().message()}")
        answer = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
        # A copy: the tensor's memory belongs to the response.
        return np.array(answer)
