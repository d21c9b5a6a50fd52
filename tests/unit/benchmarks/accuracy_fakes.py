"""A stand-in for client and server where only what is done with the answers is under test.

It knows one product at a time and answers from a list; nothing it says is true of the server. That
the real one is measured rightly is shown in tests/integration/test_bench_accuracy.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from small_trees import SIZE

from dinspect_client.errors import RequestRejected
from dinspect_client.results import Inspection
from dinspect_client.wire import Verdict

BACKBONE = SimpleNamespace(
    onnx_sha256="ab" * 32, runtime="openvino 1", precision="fp32", name="dinov2_vits14",
    weights_sha256="cd" * 32, search_precision="bf16",
)  # fmt: skip


def blob_map(size=SIZE, rows=2, high=1.0):
    """A map that is high in its first rows, as the masks of `small_trees` are."""
    values = np.linspace(0, 0.1, size[0] * size[1], dtype=np.float32).reshape(size)
    values[:rows] += np.float32(high)
    return values


class FakeClient:
    """Answers inspections by what it is told of each file's content; keeps products by name."""

    def __init__(self, answer_of):
        self.answer_of = answer_of
        self.made = []
        self.there = {}
        self.inspected = []
        self.version = 7

    def enroll(self, name, images, *, on_progress, operator, **options):
        self.made.append((name, list(images), options))
        self.there[name] = operator
        on_progress(len(images), len(images))
        return SimpleNamespace(
            product=name, version=self.version, method="anomaly_dino", backbone=BACKBONE, threshold=0.5
        )  # fmt: skip

    def inspect(self, product, path, *, method, with_map):
        assert (product in self.there, method, with_map) == (True, "anomaly_dino", True)
        self.inspected.append(path)
        score, anomaly_map = self.answer_of(path)
        return Inspection(
            product, method, self.version, score, 0.5, 0.5, Verdict.NORMAL,
            np.zeros((1, 1), np.float32), anomaly_map, (), "id", 1.0,
        )  # fmt: skip

    def server_version(self):
        return "2.51.0"

    def products(self):
        return [SimpleNamespace(name=name, method="anomaly_dino") for name in self.there]

    def history(self, name, *, method):
        return SimpleNamespace(in_force=SimpleNamespace(created_by=self.there[name]))

    def delete(self, name, *, method, operator):
        if name not in self.there:
            raise RequestRejected(f"no product {name}")
        del self.there[name]
