"""Triton model: encoded or raw images to the backbone's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_preparation import backbone_pixels, decode_image, padded_pixels
from refusals import InspectionRefused
from triton_requests import DurationCounters, answer_each, array, start, tensor
from wire import IMAGE, IMAGE_RGB

_PREPARATIONS = {"pixels": backbone_pixels, "pixels_padded": padded_pixels}
"""AnomalyDINO's and L2BT's."""
_DECODE, _RESIZE = "decode", "resize"


class TritonPythonModel:
    """Adapter around `image_preparation`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the grid and the kind of input."""
        parameters = start(args)
        rows, columns = parameters["grid"].split(",")
        self.grid = (int(rows), int(columns))
        self.raw = parameters["input"] == IMAGE_RGB.name
        parts = {
            _DECODE: "taking images from requests and decoding them",
            _RESIZE: "bringing images to the backbone's size",
        }
        self.durations = DurationCounters(args, parts)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Prepare each request's images."""
        return answer_each(requests, self._answer)

    def finalize(self) -> None:
        """Report what is not reported yet."""
        self.durations.close()

    def _answer(self, request: Any) -> list[Any]:
        with self.durations.measure(_DECODE):
            images = self._images(request)
        # Inside an ensemble only what its step maps is asked for: one of the two.
        wanted = request.requested_output_names()
        with self.durations.measure(_RESIZE):
            outputs = [
                tensor(name, np.stack([prepare(image, self.grid) for image in images]), np.uint8)
                for name, prepare in _PREPARATIONS.items()
                if name in wanted
            ]
        sizes = [image.shape[:2] for image in images]
        return [*outputs, tensor("image_size", sizes, np.int32)]

    def _images(self, request: Any) -> list[NDArray[np.uint8]]:
        if self.raw:
            batch = array(request, IMAGE_RGB.name)
            if batch.ndim != 4 or batch.shape[-1] != 3:
                raise InspectionRefused(
                    f"'{IMAGE_RGB.name}' is {batch.shape}, expected (batch, height, width, 3)"
                )
            return list(batch)
        return [decode_image(encoded) for encoded in array(request, IMAGE.name).reshape(-1)]
