"""Triton model that answers every request at once with one answer it was given.

It runs in the server's interpreter, so it imports nothing of this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

ANSWER_FILE = "answer.npz"


class TritonPythonModel:
    """The answer's tensors, whatever is asked."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the answer that lies beside this file; texts are bytes of fixed width in it."""
        with np.load(Path(__file__).with_name(ANSWER_FILE)) as file:
            arrays = {name: file[name] for name in file.files}
        self.answer = {
            name: array.astype(object) if array.dtype.kind == "S" else array
            for name, array in arrays.items()
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with the outputs it asks for."""
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, self.answer[name])
                    for name in request.requested_output_names()
                ]
            )
            for request in requests
        ]
