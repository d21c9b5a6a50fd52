"""Triton model: the life of a product after its enrolment or training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bank_management import BankManagement
from bank_store import BankStore
from management import Asked
from option_checks import is_text, read_json, read_options, require
from product_changes import REGION_KEYS, THRESHOLD_KEYS
from product_ensembles import ModelControl, ProductEnsembles
from served_backbone import ServedBackbone
from served_size import read_served_sizes
from student_management import StudentManagement
from students_store import STUDENTS_FOLDER, StudentsStore
from trained_students import StudentsRuntime
from triton_requests import answer_each, start, tensor, text_tensor, texts
from wire import (
    BUNDLE_VERSION,
    MANAGE_CONTENT,
    MANAGE_REPORT,
    MANAGE_REQUEST,
    PRODUCT,
    Method,
)

_KEYS = {"operation", "operator", "method", "file", "offset", "session", "commit", "activate"}


class TritonPythonModel:
    """Adapter around `bank_management` and `student_management`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the stores and clear what a killed import or publication left."""
        parameters = start(args)
        folder = Path(args["model_repository"])
        models, repository = folder.parent, folder.parents[1]
        sizes = read_served_sizes(parameters["served_sizes"])
        max_bytes = int(parameters["max_bank_bytes"])
        banks = BankManagement(
            BankStore(repository / "banks"), sizes, parameters["search_precision"], max_bytes
        )
        students_store = StudentsStore(repository / STUDENTS_FOLDER)
        ensembles = ProductEnsembles(
            models,
            folder / args["model_version"],
            students_store.root,
            ModelControl(pb_utils.load_model, pb_utils.unload_model),
        )
        students = StudentManagement(
            students_store,
            sizes,
            ensembles,
            lambda size: ServedBackbone(size).runtime(),
            StudentsRuntime(parameters["students_runtime"], parameters["students_precision"]),
            max_bytes,
        )
        self.operations = {
            Method.ANOMALY_DINO: banks.operations(),
            Method.L2BT: students.operations(),
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Do what each request asks for."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        value = read_json(texts(request, MANAGE_REQUEST)[0], "the request is")
        asked = read_options(value, _KEYS | set(THRESHOLD_KEYS) | set(REGION_KEYS))
        method, name = asked.get("method", Method.ANOMALY_DINO), asked.get("operation")
        known = ", ".join(self.operations)
        require(is_text(method) and method in self.operations, "method", f"one of {known}", method)
        operations = self.operations[method]
        known = f"one of {', '.join(operations)} for {method}"
        require(is_text(name) and name in operations, "operation", known, name)
        for key in ("operator", "session"):
            require(is_text(asked.get(key, "")), key, "a short string", asked.get(key))
        content = pb_utils.get_input_tensor_by_name(request, MANAGE_CONTENT.name)
        sent = b"" if content is None else bytes(content.as_numpy().reshape(-1)[0])
        done = operations[str(name)](Asked(texts(request, PRODUCT)[0], asked, sent))
        return [
            tensor(BUNDLE_VERSION.name, [done.version], np.int64),
            text_tensor(MANAGE_REPORT.name, [json.dumps(done.report)]),
            pb_utils.Tensor(MANAGE_CONTENT.name, np.array([done.content], dtype=object)),
        ]
