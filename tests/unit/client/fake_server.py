"""A gRPC server that speaks KServe v2 and fails on demand.

It stands in for Triton only where faults must be provoked: a real one cannot be told to leave out
an output or to be unavailable exactly once. What Triton itself does is tested by the integration
tests, with the real one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import grpc
import numpy as np
from fake_products import ENSEMBLE, FakeProducts, product_report, sha256, version_report
from fake_students import STUDENTS_ENSEMBLE, FakeStudents
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from dinspect_client import wire

__all__ = ["ENSEMBLE", "product_report", "version_report"]

GRID = (4, 5)
PATCH_TOKENS = wire.patch_tokens_model("448")
UNBATCHED = (
    (wire.ENROLL_MODEL, wire.ENROLL_INPUTS, wire.ENROLL_OUTPUTS),
    (wire.PRODUCTS_MODEL, wire.PRODUCTS_INPUTS, wire.PRODUCTS_OUTPUTS),
    (wire.MANAGE_MODEL, wire.MANAGE_INPUTS, wire.MANAGE_OUTPUTS),
    (wire.ZERO_SHOT_MODEL, wire.ZERO_SHOT_INPUTS, wire.ZERO_SHOT_OUTPUTS),
)
NUMPY_TYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8}

Tensors = dict[str, np.ndarray]


@dataclass
class Fault:
    """A status to answer with, for the next ``times`` requests to a model."""

    code: grpc.StatusCode
    message: str
    times: int = 1


def ensemble_metadata(image: wire.TensorSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Names and datatypes of the inputs and outputs."""
    inputs = {spec.name: spec.datatype for spec in (image, wire.PRODUCT)}
    return inputs, {spec.name: spec.datatype for spec in wire.INSPECTION_OUTPUTS}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers well until told otherwise.

    Attributes:
        models: What is served: inputs and outputs by name.
        not_ready: Models that answer readiness with no.
        faults: By model, what to answer instead.
        products: Reports as `products` lists them.
        store: What `manage` works on for anomaly_dino.
        students: What it works on for l2bt.
        tokens: By block, the patch tokens of any image.
        staged: Names, digests and roles of an enrolment's or batch's images by session.
        closed: Sessions of zero-shot batches that were closed.
        outputs: Values of the next inspections, in the shape of one item.
        tamper: Changes a response before it is sent.
        delay_s: How long an inference takes.
        requests: All inference requests, in order of arrival.
        metadata_requests: Names of the models whose metadata was asked for.
    """

    def __init__(self) -> None:
        self.models = {
            ENSEMBLE: ensemble_metadata(wire.IMAGE),
            ENSEMBLE + "_raw": ensemble_metadata(wire.IMAGE_RGB),
            STUDENTS_ENSEMBLE: ensemble_metadata(wire.IMAGE),
            STUDENTS_ENSEMBLE + "_raw": ensemble_metadata(wire.IMAGE_RGB),
            PATCH_TOKENS: (
                {"image": "BYTES"},
                {"patch_tokens_8": "FP32", "patch_tokens_12": "FP32", "image_size": "INT32"},
            ),
            **{
                name: (
                    {spec.name: spec.datatype for spec in inputs},
                    {spec.name: spec.datatype for spec in outputs},
                )
                for name, inputs, outputs in UNBATCHED
            },
        }
        self.not_ready: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.products = {"screw": product_report("screw")}
        self.store = FakeProducts()
        self.students = FakeStudents()
        self.tokens = {n: n + np.arange(12.0).reshape(4, 3) / 16 for n in (8, 12)}
        self.staged: dict[str, list[tuple[str, str, str]]] = {}
        self._turn = threading.Lock()  # one request after the other, as by one instance of a model
        self.closed: list[str] = []
        self.outputs: Tensors = {
            "anomaly_score": np.array([0.25]),
            "threshold": np.array([0.5]),
            "normal_below": np.array([0.375]),
            "defect_regions": bytes_array("[]"),
            "verdict": np.array([0]),
            "patch_distances": np.linspace(0, 0.5, GRID[0] * GRID[1]).reshape(GRID),
            "bundle_version": np.array([3]),
        }
        self.tamper: Callable[[service_pb2.ModelInferResponse], None] = lambda response: None
        self.delay_s = 0.0
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.metadata_requests: list[str] = []

    def requests_to(self, model: str) -> list[service_pb2.ModelInferRequest]:
        return [request for request in self.requests if request.model_name == model]

    def ServerMetadata(self, request, context):  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def ModelReady(self, request, context):  # noqa: N802
        ready = request.name in self.models and request.name not in self.not_ready
        return service_pb2.ModelReadyResponse(ready=ready)

    def ModelMetadata(self, request, context):  # noqa: N802
        self.metadata_requests.append(request.name)
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: '{request.name}'")
        response = service_pb2.ModelMetadataResponse(name=request.name)
        for tensors, target in zip(
            self.models[request.name], (response.inputs, response.outputs), strict=True
        ):
            for name, datatype in tensors.items():
                target.add(name=name, datatype=datatype, shape=[-1])
        return response

    def ModelInfer(self, request, context):  # noqa: N802
        self.requests.append(request)
        model = request.model_name
        fault = self.faults.get(model)
        if fault is not None and fault.times > 0:
            fault.times -= 1
            context.abort(fault.code, fault.message)
        if model not in self.models:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{model}' is not found"
            )
        inputs = decode_inputs(request)
        try:
            with self._turn:
                time.sleep(self.delay_s)
                outputs = self._answers.get(model, self._inspect)(inputs)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble '{model}', {error}")
        response = encode_response(request, outputs)
        self.tamper(response)
        return response

    @property
    def _answers(self) -> dict[str, Callable[[Tensors], Tensors]]:
        return {
            wire.PRODUCTS_MODEL: self._list_products,
            wire.ENROLL_MODEL: self._enroll,
            wire.MANAGE_MODEL: self._manage,
            wire.ZERO_SHOT_MODEL: self._zero_shot,
            PATCH_TOKENS: self._patch_tokens,
        }

    def _list_products(self, inputs: Tensors) -> Tensors:
        name = inputs["product"][0].decode()
        reports = [one for one in self.products.values() if name in ("", one["product"])]
        return {"products": bytes_array(json.dumps(reports))}

    def _stage(self, options: dict[str, Any], images: np.ndarray) -> int:
        """Keep a part's images, and tell how many the session has; no image fails its session."""
        staged = self.staged.get(options["session"], [])
        if options["num_staged"] != len(staged):
            raise ValueError(f"the session holds {len(staged)} images")
        for name, data in zip(options["image_names"], images, strict=True):
            if data == b"-":
                self.staged.pop(options["session"], None)
                raise ValueError(f"reference {name}: no image in a known format")
            staged.append((name, sha256(data), options.get("role", "reference")))
        self.staged[options["session"]] = staged
        return len(staged)

    def _enroll(self, inputs: Tensors) -> Tensors:
        options = json.loads(inputs["options"][0])
        session = options["session"]
        num_staged = self._stage(options, inputs["images"])
        if not options["commit"]:
            return enroll_outputs(0, 0.0, {"session": session, "num_staged": num_staged})
        staged = self.staged.pop(session)
        images = {
            role: [{"name": n, "sha256": s} for n, s, of in staged if of == role]
            for role in ("reference", "good")
        }
        product = inputs["product"][0].decode()
        before = []
        if options.get("append"):
            before = self.store.versions[product][self.store.current[product]]["references"]
        references = [*before, *images["reference"]]
        report = version_report(product, 4, references=references, num_patches=len(references))
        report["num_references"] = len(references)
        report["calibration"] |= {"good_images": images["good"]}
        return enroll_outputs(4, 0.5, report)

    def _manage(self, inputs: Tensors) -> Tensors:
        content = inputs["content"][0] if "content" in inputs else b""
        asked = json.loads(inputs["request"][0])
        store = {"anomaly_dino": self.store, "l2bt": self.students}[
            asked.get("method", "anomaly_dino")
        ]
        version, report, found = store.manage(inputs["product"][0].decode(), asked, content)
        return {
            "bundle_version": np.array([version]),
            "report": bytes_array(json.dumps(report)),
            "content": np.array([found], dtype=np.object_),
        }

    def _zero_shot(self, inputs: Tensors) -> Tensors:
        options = json.loads(inputs["options"][0])
        session = options["session"]
        outputs: Tensors = {}
        if "score" in options:
            outputs, report = self._score(self.staged[session], options["score"])
        elif "images" in inputs:
            report = {"session": session, "num_staged": self._stage(options, inputs["images"])}
            report |= {"masked": True, "masking_test": {"passed": True}}
        else:
            report = {"session": session, "num_staged": 0, "masked": None, "masking_test": None}
        if options.get("close"):
            self.staged.pop(session, None)
            self.closed.append(session)
        return outputs | {"report": bytes_array(json.dumps(report))}

    def _score(
        self, staged: list[tuple[str, str, str]], index: int
    ) -> tuple[Tensors, dict[str, Any]]:
        name, digest, _ = staged[index]
        report = {
            "index": index,
            "name": name,
            "sha256": digest,
            "num_images": len(staged),
            "num_bank_patches": 20 * (len(staged) - 1),
            "num_nearest": 1,
            "backbone": version_report("", 0)["backbone"],
        }
        ramp = np.linspace(0, 1, 30 * 40).reshape(30, 40)
        outputs = {
            "anomaly_score": np.array([0.125 * (index % 3)]),
            "patch_distances": ramp[:4, :5],
            "anomaly_map": ramp,
        }
        return outputs, report

    def _patch_tokens(self, inputs: Tensors) -> Tensors:
        tokens = {f"patch_tokens_{n}": tokens[np.newaxis] for n, tokens in self.tokens.items()}
        return tokens | {"image_size": np.array([[48, 64]], np.int32)}

    def _inspect(self, inputs: Tensors) -> Tensors:
        if "image_rgb" in inputs:
            height, width = inputs["image_rgb"].shape[1:3]
        else:
            data = np.frombuffer(inputs["image"][0, 0], np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError("image cannot be decoded, expected JPEG, PNG, BMP, TIFF or WebP")
            height, width = image.shape[:2]
        ramp = np.linspace(0, 1, height * width).reshape(height, width)
        return {
            name: value[np.newaxis]
            for name, value in ({"anomaly_map": ramp} | self.outputs).items()
        }


def bytes_array(text: str) -> np.ndarray:
    return np.array([text.encode()], dtype=np.object_)


def enroll_outputs(version: int, threshold: float, report: dict[str, Any]) -> Tensors:
    return {
        "bundle_version": np.array([version]),
        "threshold": np.array([threshold]),
        "report": bytes_array(json.dumps(report)),
    }


def decode_inputs(request: service_pb2.ModelInferRequest) -> Tensors:
    tensors = {}
    for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            array = deserialize_bytes_tensor(content)
        else:
            array = np.frombuffer(content, NUMPY_TYPES[tensor.datatype])
        tensors[tensor.name] = array.reshape(tuple(tensor.shape))
    return tensors


def encode_response(
    request: service_pb2.ModelInferRequest, outputs: Tensors
) -> service_pb2.ModelInferResponse:
    """Encode the outputs that were asked for, in the contract's datatypes."""
    datatypes = {
        spec.name: spec.datatype
        for spec in (
            *wire.INSPECTION_OUTPUTS,
            *wire.ENROLL_OUTPUTS,
            *wire.PRODUCTS_OUTPUTS,
            *wire.MANAGE_OUTPUTS,
        )
    } | {"patch_tokens_8": "FP32", "patch_tokens_12": "FP32", "image_size": "INT32"}
    response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
    for wanted in request.outputs:
        array, datatype = outputs[wanted.name], datatypes[wanted.name]
        response.outputs.add(name=wanted.name, datatype=datatype, shape=array.shape)
        if datatype == "BYTES":
            response.raw_output_contents.append(serialize_byte_tensor(array).item())
        else:
            response.raw_output_contents.append(array.astype(NUMPY_TYPES[datatype]).tobytes())
    return response


@contextmanager
def serving(servicer: FakeTriton, port: int = 0) -> Iterator[str]:
    """Serve on the loopback, on a free port unless one is given; give its ``host:port``."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield f"127.0.0.1:{bound}"
        finally:
            server.stop(grace=None).wait()
