"""Triton model: pixels to patch tokens, by OpenVINO or ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runners import load_backbone
from triton_requests import answer_each, array, start, tensor, text_tensor


class TritonPythonModel:
    """Adapter around `runners`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the backbone and prove it on its known answer, or refuse to serve."""
        parameters = start(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        self.backbone = load_backbone(
            folder / "model.onnx",
            folder / "known_answer.safetensors",
            parameters["runtime"],
            parameters["precision"],
        )
        self.info = {
            "runtime": self.backbone.runtime,
            "precision": self.backbone.precision,
        }
        pb_utils.Logger.log_info(
            f"{args['model_name']}: {self.info['runtime']} in {self.info['precision']}, worst "
            f"patch of the known answer {self.backbone.max_cosine_distance:.1e} from PyTorch"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute each request's patch tokens."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        pixels = array(request, "pixels")
        outputs = [
            tensor(name, tokens, np.float32) for name, tokens in self.backbone.run(pixels).items()
        ]
        if "runtime_info" in request.requested_output_names():
            info = [json.dumps(self.info)] * len(pixels)
            outputs.append(text_tensor("runtime_info", info, shape=(len(pixels), 1)))
        return outputs
