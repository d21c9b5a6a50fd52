"""Students of random weights on their way into a server: all that a training hands over."""

from __future__ import annotations

import json

import numpy as np
import torch
from integration.triton_calls import bytes_input, manage, named_outputs
from safetensors.numpy import save

from dinspect_client import wire
from dinspect_export.students import (
    DistanceOptions,
    StudentDistance,
    StudentPair,
    TrainedStudents,
    known_answer,
    write_students_onnx,
)
from dinspect_export.variants import VARIANTS

VARIANT = VARIANTS["dinov2_vits14"]


class RandomStudents:
    """A pair of students for a grid of patches.

    Args:
        seed: Of the weights.
        grid: Patch grid.
        layers: Blocks ``(j, k)``.
        options: Words of `DistanceOptions`.
    """

    def __init__(self, seed, grid, layers=(8, 12), **options):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pair = StudentPair(VARIANT.dim).eval().requires_grad_(False)
        self.grid, self.layers = grid, layers
        self.options = DistanceOptions(**options)
        self.trained = TrainedStudents(pair, VARIANT, layers)

    def onnx(self, folder):
        """Content of their graph."""
        path = folder / "students.onnx"
        write_students_onnx(self.trained, path, grid=self.grid, options=self.options)
        return path.read_bytes()

    def weights(self):
        """Of the forward and the backward student, float64, by the official names."""
        pair = self.trained.pair
        return [
            {name: value.numpy().astype(np.float64) for name, value in one.state_dict().items()}
            for one in (pair.forward_student, pair.backward_student)
        ]

    def distances(self, tokens):
        """``(images, rows, columns)`` of tokens by block, each ``(images, N, D)``."""
        model = StudentDistance(self.trained.pair, self.grid, self.options)
        return model(*(torch.tensor(tokens[layer]) for layer in self.layers)).numpy()

    def known_answer(self):
        """What PyTorch makes of the known tokens."""
        step, width = wire.KNOWN_TOKENS
        return known_answer(self.trained, self.grid, self.options, step=step, width=width)

    def training(self, backbone_sha256, num_images, image_size, **changes):
        """What ``training.json`` says of them."""
        options = self.options
        return {
            "image_size": list(image_size),
            "grid": list(self.grid),
            "layers": list(self.layers),
            "dim": VARIANT.dim,
            "backbone_sha256": backbone_sha256,
            "distance": {
                "normalisation": options.normalisation.value,
                "metric": options.metric.value,
                "combination": options.combination.value,
            },
            "smoothing": "gaussian",
            "sigma_px": 4.69,
            "known_answer": self.known_answer(),
            "training": {"epochs": 0},
            "references": [
                {"name": f"{index}.png", "sha256": f"{index:064x}"} for index in range(num_images)
            ],
            "good_images": [],
            "calibration": "cross_fit",
            "false_positive_rate": None,
            "undecided_rate": None,
            "threshold": None,
            "normal_below": None,
        } | changes


def training_files(students, folder, backbone_sha256, tokens, image_size, **changes):
    """The files of a training whose good parts have these tokens, some things said otherwise."""
    distances = students.distances(tokens)
    training = students.training(backbone_sha256, len(distances), image_size, **changes)
    contents = (
        json.dumps(training).encode(),
        students.onnx(folder),
        save({"patch_distances": distances}),
    )
    return dict(zip(wire.TRAINING_FILES, contents, strict=True))


def publish(client, product, files, session="s", **asked):
    """Each file in one part; returns version and report."""
    for name, content in files.items():
        last = name == wire.TRAINING_FILES[-1]
        version, report, _ = manage(
            client, product, "publish", content, method="l2bt", session=session, file=name,
            offset=0, commit=last, **asked,
        )  # fmt: skip
    return version, report


def tokens_of(client, label, layers, *encoded):
    """Patch tokens by block, each ``(images, N, D)``, as the server has them."""
    images = bytes_input("image", encoded, [len(encoded), 1])
    answer = named_outputs(client.infer(wire.patch_tokens_model(label), [images]))
    return {layer: answer[f"patch_tokens_{layer}"] for layer in layers}
