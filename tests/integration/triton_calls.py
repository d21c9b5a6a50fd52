"""Requests with the bare client, to see what a plant's own software sees."""

from __future__ import annotations

import json

import numpy as np
import tritonclient.grpc as triton

from dinspect_client import wire

PLAIN = {"preprocessing": "no_mask_no_rotation"}
"""For tests in which neither masks nor rotations matter: an eighth of the time."""


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
    return named_outputs(result)


def named_outputs(result):
    """The outputs that came, by name."""
    response = result.get_response()
    served = response["outputs"] if isinstance(response, dict) else response.outputs
    names = [one["name"] if isinstance(one, dict) else one.name for one in served]
    return {name: result.as_numpy(name) for name in names}


def same(answer, other):
    """Whether two answers have the same outputs, to the last bit."""
    return answer.keys() == other.keys() and all(
        np.array_equal(answer[name], other[name]) for name in answer
    )


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


def manage(client, product, operation, content=None, **keys):
    """One request of a product's life; returns version, report and content."""
    request = json.dumps({"operation": operation} | keys).encode()
    inputs = [
        bytes_input("product", [product.encode()], [1]),
        bytes_input("request", [request], [1]),
    ]
    if content is not None:
        inputs.append(bytes_input("content", [content], [1]))
    result = client.infer("manage", inputs)
    return (
        int(result.as_numpy("bundle_version")[0]),
        json.loads(result.as_numpy("report")[0]),
        bytes(result.as_numpy("content")[0]),
    )


def read_version(client, reference):
    """Every file of a version, in the parts the server gives, by name."""
    files = {}
    for name in wire.VERSION_FILES:
        content, size = b"", 1
        while len(content) < size:
            _, report, part = manage(client, reference, "read", file=name, offset=len(content))
            assert 0 < len(part) <= wire.MAX_CONTENT_BYTES
            size = report["file_bytes"]
            content += part
        assert len(content) == size
        files[name] = content
    return files


def listed(client, product=""):
    """What is enrolled."""
    result = client.infer("products", [bytes_input("product", [product.encode()], [1])])
    return json.loads(result.as_numpy("products")[0])


def zero_shot(client, images=None, outputs=("report",), **options):
    """One request of a batch without references; returns the outputs by name, the report read."""
    inputs = [bytes_input("options", [json.dumps(options).encode()], [1])]
    if images is not None:
        inputs.append(bytes_input("images", list(images), [len(images)]))
    asked = [triton.InferRequestedOutput(name) for name in outputs]
    answer = named_outputs(client.infer("zero_shot", inputs, outputs=asked))
    return answer | {"report": json.loads(answer["report"][0])}
