"""Records written by hand, in the form the benchmarks write them; none of their figures is measured."""

from __future__ import annotations

import copy
import json

import numpy as np
from PIL import Image

CREATED = "2026-01-02T03:04:05+00:00"
ENVIRONMENT = {
    "cpu": {
        "model": "Hand-written Processor",
        "architecture": "x86_64",
        "usable_cores": 2,
        "quota": None,
        "clock_mhz": {"current": 2600.0, "max": None},
        "virtualised": True,
        "flags": ["avx2", "fma"],
    },
    "memory_gib": 23.5,
    "gpus": [],
    "os": "An OS",
    "kernel": "Linux 6",
    "python": "CPython 3.11.7",
    "packages": {"numpy": "1.26.4"},
    "git": {"commit": "a" * 40, "changed_files": False},
}
QUARTILES = {
    f"aupro_{limit}_q{number}": round(0.5 + 0.01 * number, 3)
    for limit in ("30", "05")
    for number in (1, 2, 3, 4)
}
PIXEL_FIGURES = {
    "pixel_auroc": 0.95,
    "pixel_f1_max": 0.4,
    "pixel_average_precision": 0.35,
    "aupro_30": 0.8,
    "aupro_05": 0.5,
    "robustness_30": 0.7,
    "robustness_05": 0.4,
    **QUARTILES,
}


TEXTURES = ("carpet", "grid", "leather", "tile", "wood")


def environment(**changes):
    return copy.deepcopy(ENVIRONMENT) | changes


def accuracy(**changes):
    """A record as `bench-accuracy` writes it, of one shot and what it is told otherwise."""
    return {
        "record": "accuracy",
        "created": CREATED,
        "environment": environment(),
        "dataset": "mvtec_ad",
        "category": "bottle",
        "method": "anomaly_dino",
        "backbone": "dinov2_vits14",
        "resolution": 672,
        "shots": 1,
        "seed": 0,
        "selection": "consecutive" if changes.get("shots", 1) else "all",
        "preprocessing": "agnostic",
        "texture": changes.get("category") in TEXTURES and "pad" not in changes.values(),
        "rotated": False,
        "epochs": None,
        "runtime": "openvino 1.2",
        "precision": "fp32",
        "search_precision": "bf16",
        "students_precision": None,
        "image_auroc": 0.9,
        "image_f1_max": 0.85,
        "image_average_precision": 0.92,
        **PIXEL_FIGURES,
        "num_good": 20,
        "num_defective": 63,
        "num_regions": 70,
        "num_not_outlined": 0,
        "num_test_learnt_from": 0,
        "left_out": [],
        "curves": {
            "roc": [[0.0, 0.0], [0.0, 0.8], [1.0, 1.0]],
            "pro": [[0.0, 0.0], [0.2, 0.6], [0.4, 0.8], [1.0, 1.0]],
        },
        "worst": [
            {"file": "test/broken/001.png", "label": "broken", "score": 0.1234, "picture": None}
        ],
        "backbone_sha256": "bb" * 32,
        "weights_sha256": "ee" * 32,
        "bundle_version": 1,
    } | changes  # fmt: skip


def l2bt_accuracy(**changes):
    return accuracy(
        **{
            "method": "l2bt", "backbone": "dinov2_vitb14_reg", "resolution": 1036, "shots": None,
            "preprocessing": "pad", "epochs": 50, "search_precision": None, "students_precision": "fp32",
        } | changes
    )  # fmt: skip


def latency(**changes):
    return {
        "record": "latency",
        "created": CREATED,
        "environment": environment(),
        "scenario": "single_stream",
        "method": "anomaly_dino",
        "backbone": "dinov2_vits14",
        "resolution": 448,
        "shots": 1,
        "bank_patches": 8192,
        "masking": True,
        "rotation": "agnostic",
        "with_map": False,
        "precision": "bf16",
        "runtime": "openvino 1.2",
        "p50_ms": 80.0,
        "p90_ms": 90.0,
        "p99_ms": 99.0,
        "mean_ms": 82.0,
        "std_ms": 4.0,
        "num_samples": 100,
        "num_failed": 0,
        "stages_ms": {"backbone": 60.0, "knn": 20.0, "transport": 1.0},
        "stages_sum_share": 0.988,
        "memory_bank_s": 1.25,
        "memory_bank_std_s": 0.05,
    } | changes


def null_system(**changes):
    return {
        "record": "null_system", "created": CREATED, "environment": environment(), "p50_ms": 0.25,
        "p99_ms": 0.5, "covers": "schedule and clock",
    } | changes  # fmt: skip


def peak(**changes):
    return {
        "record": "peak",
        "created": CREATED,
        "environment": environment(),
        "matrix_product_flops": {"fp32": 2.0e11, "bf16": 6.0e11, "int8": None},
        "copy_bytes_per_s": 1.2e10,
    } | changes


def peer_latency(**changes):
    return {
        "record": "peer_latency",
        "created": CREATED,
        "environment": environment(),
        "case": "anomaly_dino_448",
        "system": "dinspect served",
        "p50_ms": 80.0,
        "ratio_to_dinspect": 1.0,
        "num_samples": 20,
    } | changes


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(path)
