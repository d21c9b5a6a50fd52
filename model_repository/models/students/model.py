"""Triton model: patch tokens of two blocks and a product to distances, score and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scored_tensors import Answer, scored_tensors
from students_cache import StudentsCache
from students_store import STUDENTS_FOLDER, StudentsStore
from triton_requests import answer_each, array, start, texts
from wire import PRODUCT


class TritonPythonModel:
    """Adapter around `students_cache` and `student_scoring`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store of students; they load on first use."""
        parameters = start(args)
        # <repository>/models/<this model>: the students live beside the models, not among them.
        store = StudentsStore(Path(args["model_repository"]).parents[1] / STUDENTS_FOLDER)
        self.cache = StudentsCache(
            store,
            parameters["onnx_sha256"],
            parameters["runtime"],
            parameters["precision"],
            int(parameters["max_bank_bytes"]),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score each request's images."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        sizes = [(int(height), int(width)) for height, width in array(request, "image_size")]
        answers = []
        for row, (product, size) in enumerate(zip(texts(request, PRODUCT), sizes, strict=True)):
            scorer = self.cache.get(product)
            record = scorer.record
            # Another product's ensemble may feed other blocks, by which nothing can be said.
            tokens_j, tokens_k = (
                array(request, f"patch_tokens_{layer}")[row] for layer in record.layers
            )
            scored = scorer.score(tokens_j, tokens_k, size)
            answers.append(Answer(record, scored, record.map_rule, 0))
        return scored_tensors(answers)
