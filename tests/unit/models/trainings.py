"""Small, real trainings: students that measure how far one block's tokens are from half another's."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save

from arriving_files import Arrivals
from served_size import ServedSize
from student_runner import known_tokens
from students_record import StudentsRecord
from trained_students import StudentsRuntime, publish_students, read_report, size_of
from wire import TRAINING_FILES

GRID = (2, 2)
IMAGE_SIZE = (40, 60)
DIM = 8
LAYERS = (8, 12)
ONNX_SHA256 = "a" * 64
RUNTIME = {"runtime": "openvino 2025.3", "precision": "fp32"}
SERVED = ServedSize(
    label="28",
    ensemble="anomaly_dino_28",
    backbone="dinov2_vits14_28",
    grid=GRID,
    layer=12,
    name="dinov2_vits14",
    onnx_sha256=ONNX_SHA256,
    weights_sha256="b" * 64,
    file_sha256=ONNX_SHA256,
    native_runtime="triton-onnxruntime",
    native_precision="fp32",
    dim=DIM,
    layers=(4, 8, 12),
)

RUN_BY = StudentsRuntime("openvino", "fp32")


def graph(scale=1.0, *, layers=LAYERS, grid=GRID, dim=DIM, dtype=TensorProto.FLOAT, output_rank=3):
    """Content of a graph: ``scale`` times the length of block j's token less half of block k's."""
    names = [f"patch_tokens_{layer}" for layer in layers]
    shape = ["batch", grid[0] * grid[1], dim]
    put_out = [0, *grid] if output_rank == 3 else [0, grid[0] * grid[1]]
    nodes = [
        helper.make_node("Mul", [names[1], "half"], ["halved"]),
        helper.make_node("Sub", [names[0], "halved"], ["difference"]),
        helper.make_node("ReduceL2", ["difference"], ["length"], axes=[2], keepdims=0),
        helper.make_node("Mul", ["length", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["reshaped"]),
        helper.make_node("Cast", ["reshaped"], ["patch_distances"], to=dtype),
    ]
    made = helper.make_graph(
        nodes,
        "students",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info("patch_distances", dtype, ["batch", *put_out[1:]])],
        [
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("shape", TensorProto.INT64, [len(put_out)], put_out),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tokens(seed=0, dim=DIM, grid=GRID):
    """``(N, D)`` float32 patch tokens of two blocks."""
    return np.random.default_rng(seed).normal(size=(2, grid[0] * grid[1], dim)).astype(np.float32)


def expected_distances(pair, scale=1.0, grid=GRID):
    """What `graph` says of two blocks' tokens, by hand."""
    return scale * np.sqrt(((pair[0] - pair[1] / 2) ** 2).sum(-1)).reshape(grid)


def good_distances(num_images=3, seed=0):
    """``(images, rows, columns)`` float32."""
    dice = np.random.default_rng(seed)
    return dice.uniform(0.1, 0.3, (num_images, *GRID)).astype(np.float32)


def images(num_images):
    """As a record names them."""
    return [{"name": f"{index}.png", "sha256": f"{index:064x}"} for index in range(num_images)]


def known_answer(scale=1.0, dim=DIM):
    """What students that multiply by ``scale`` make of the known tokens."""
    return expected_distances(known_tokens(GRID[0] * GRID[1], dim), scale).tolist()


def training(**changes):
    """What ``training.json`` says; fields may be changed, and left out by None in a list."""
    return {
        "image_size": list(IMAGE_SIZE),
        "grid": list(GRID),
        "layers": list(LAYERS),
        "dim": DIM,
        "backbone_sha256": ONNX_SHA256,
        "distance": {"normalisation": "none", "metric": "euclidean", "combination": "sum"},
        "smoothing": "gaussian",
        "sigma_px": 2.0,
        "known_answer": known_answer(),
        "training": {"epochs": 3},
        "references": images(3),
        "good_images": [],
        "calibration": "cross_fit",
        "false_positive_rate": None,
        "undecided_rate": None,
        "threshold": None,
        "normal_below": None,
    } | changes


def training_files(scale=1.0, *, students=None, distances=None, **changes):
    """All files of a training, by name."""
    found = good_distances() if distances is None else distances
    changes = {"known_answer": known_answer(scale)} | changes
    contents = (
        json.dumps(training(**changes)).encode(),
        graph(scale) if students is None else students,
        save({"patch_distances": found}),
    )
    return dict(zip(TRAINING_FILES, contents, strict=True))


def publish_files(
    store, product, files, *, activate=True, served=(SERVED,), prepare=lambda: None, run_by=RUN_BY
) -> StudentsRecord:
    """Make a version of files as `manage` does it."""
    arrivals = Arrivals(store, TRAINING_FILES, 10**8, "trainings")
    arrived = arrivals.get("session", product)
    try:
        for name, content in files.items():
            arrived.add(name, 0, content)
        report = read_report(arrived.folder.path / TRAINING_FILES[0])
        return publish_students(
            arrived, report, size_of(report, served), store, RUNTIME, "ada",
            run_by=run_by, activate=activate, prepare=prepare,
        )  # fmt: skip
    finally:
        arrivals.drop("session")


def publish_trained(store, product="screw", scale=1.0, *, activate=True, **changes):
    """Make a version of students that multiply by ``scale``."""
    return publish_files(store, product, training_files(scale, **changes), activate=activate)
