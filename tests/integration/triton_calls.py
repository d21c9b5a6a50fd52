"""Requests with the bare client, to see what a plant's own software sees."""

from __future__ import annotations

import json

import numpy as np
import tritonclient.grpc as triton


def bytes_input(name, values, shape, module=triton):
    tensor = module.InferInput(name, shape, "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(shape))
    return tensor


def inspect(client, product, *encoded, model="anomaly_dino_448", outputs=None, module=triton):
    """One request with a batch of images; returns the outputs by name."""
    count = len(encoded)
    result = client.infer(
        model,
        [
            bytes_input("image", encoded, [count, 1], module),
            bytes_input("product", [product.encode()] * count, [count, 1], module),
        ],
        outputs=[module.InferRequestedOutput(name) for name in outputs] if outputs else None,
    )
    response = result.get_response()
    served = response["outputs"] if isinstance(response, dict) else response.outputs
    names = [one["name"] if isinstance(one, dict) else one.name for one in served]
    return {name: result.as_numpy(name) for name in names}


def enroll(client, product, images, **options):
    """One enrolment request; returns version, threshold and report."""
    inputs = [
        bytes_input("product", [product.encode()], [1]),
        bytes_input("images", list(images), [len(images)]),
    ]
    if options:
        inputs.append(bytes_input("options", [json.dumps(options).encode()], [1]))
    result = client.infer("enroll", inputs)
    return (
        int(result.as_numpy("bundle_version")[0]),
        float(result.as_numpy("threshold")[0]),
        json.loads(result.as_numpy("report")[0]),
    )
