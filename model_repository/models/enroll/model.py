"""Triton model: good images in, a versioned bundle out, through the backbone that will serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from bank_store import BankStore, Bundle
from enrolment import Enrolment, EnrolOptions, ServedSize, Sessions
from image_preparation import decode_image, patch_grid
from nearest_neighbours import search_precision
from refusals import InspectionRefused
from triton_requests import answer_each, array, start, tensor, text_tensor, texts
from wire import (
    BUNDLE_VERSION,
    ENROLL_IMAGES,
    ENROLL_OPTIONS,
    ENROLL_REPORT,
    PRODUCT,
    THRESHOLD,
    is_product_name,
)

DEFAULT_RESOLUTION = 448


class TritonPythonModel:
    """Adapter around `enrolment`; calls the served backbone for every reference."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store and clear what a killed enrolment left."""
        parameters = start(args)
        self.store = BankStore(Path(args["model_repository"]).parents[1] / "banks")
        self.store.remove_leftovers()
        sizes = [ServedSize.from_json(size) for size in json.loads(parameters["served_sizes"])]
        self.served = {size.grid: size for size in sizes}
        self.sessions = Sessions()
        self.search_precision = search_precision(parameters["search_precision"])
        self.runtime_info: dict[str, dict[str, str]] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Enrol, or stage a part of an enrolment."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        product = texts(request, PRODUCT)[0]
        if not is_product_name(product):
            raise InspectionRefused(
                f"{product!r} is no product name: 1-64 letters, digits, '_', '.', '-', beginning "
                "with a letter or digit"
            )
        options = _options(request)
        try:
            enrolment = self._gather(product, request, options)
        except InspectionRefused:
            # Half an enrolment must not be continued as if the refused part had been taken.
            self.sessions.drop(options.session)
            raise
        if not options.commit:
            self.sessions.put(options.session, enrolment)
            report = {"session": options.session, "num_staged": len(enrolment.tokens)}
            return _outputs(0, 0.0, report)
        self.sessions.drop(options.session)
        served = enrolment.served
        bundle = enrolment.publish(
            self.store,
            options,
            self.runtime_info[served.backbone],
            self.search_precision,
            lambda pixels: self._tokens(served, pixels),
        )
        return _outputs(bundle.version, bundle.threshold, _report(bundle))

    def _gather(self, product: str, request: Any, options: EnrolOptions) -> Enrolment:
        images = array(request, ENROLL_IMAGES.name).reshape(-1).tolist()
        enrolment = self.sessions.get(options.session) if options.session else None
        if enrolment is not None and enrolment.product != product:
            raise InspectionRefused(
                f"session {options.session!r} enrols '{enrolment.product}', not '{product}'"
            )
        if enrolment is None:
            if not images:
                raise InspectionRefused(
                    "an enrolment needs at least one image of a good part"
                    + (f"; session {options.session!r} is not open" if options.session else "")
                )
            if not options.commit and not options.session:
                raise InspectionRefused("commit is false but no session is named to continue")
            enrolment = self._begin(product, images[0], options.resolution)
            self.runtime_info.pop(enrolment.served.backbone, None)  # it may have been reloaded
        names = options.image_names or tuple(
            f"#{len(enrolment.tokens) + offset + 1}" for offset in range(len(images))
        )
        if len(names) != len(images):
            raise InspectionRefused(f"{len(names)} image_names for {len(images)} images")
        served = enrolment.served
        for name, encoded in zip(names, images, strict=True):
            enrolment.add(name, encoded, lambda pixels: self._tokens(served, pixels))
        return enrolment

    def _begin(self, product: str, encoded: bytes, resolution: int | None) -> Enrolment:
        image = decode_image(encoded)
        size = (image.shape[0], image.shape[1])
        for candidate in [resolution] if resolution else self._resolutions():
            served = self.served.get(patch_grid(size, candidate))
            if served is not None and min(served.grid) * 14 == candidate:
                return Enrolment(product, served, size, image)
        shown = ", ".join(size.label for size in self.served.values())
        grid = patch_grid(size, resolution or self._resolutions()[0])
        raise InspectionRefused(
            f"a {size[1]} x {size[0]} px image needs input size {grid[0] * 14}x{grid[1] * 14} "
            f"(height x width), but this server has {shown}; export and assemble that size"
        )

    def _resolutions(self) -> list[int]:
        """Served resolutions, the default first."""
        served = {min(grid) * 14 for grid in self.served}
        return sorted(served, key=lambda resolution: (resolution != DEFAULT_RESOLUTION, resolution))

    def _tokens(self, served: ServedSize, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        name = f"patch_tokens_{served.layer}"
        if served.native_runtime:
            info = {"runtime": served.native_runtime, "precision": "fp32"}
            self.runtime_info[served.backbone] = info
        wanted = [name] if served.backbone in self.runtime_info else [name, "runtime_info"]
        response = pb_utils.InferenceRequest(
            model_name=served.backbone,
            requested_output_names=wanted,
            inputs=[tensor("pixels", pixels[None], np.uint8)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise RuntimeError(f"{served.backbone}: {response.error().message()}")
        outputs = {output.name(): output for output in response.output_tensors()}
        if "runtime_info" in outputs:
            text = outputs["runtime_info"].as_numpy().reshape(-1)[0]
            self.runtime_info[served.backbone] = json.loads(text)
        # A copy: the tensor's memory belongs to the response.
        return np.array(outputs[name].as_numpy()[0])


def _options(request: Any) -> EnrolOptions:
    if pb_utils.get_input_tensor_by_name(request, ENROLL_OPTIONS.name) is None:
        return EnrolOptions()
    try:
        value = json.loads(texts(request, ENROLL_OPTIONS)[0])
    except ValueError as error:
        raise InspectionRefused(f"options are no JSON: {error}") from None
    return EnrolOptions.from_json(value)


def _report(bundle: Bundle) -> dict[str, Any]:
    return {
        "product": bundle.product,
        "bundle_version": bundle.version,
        "ensemble": bundle.ensemble,
        "grid": bundle.grid,
        "image_size": bundle.image_size,
        "num_references": bundle.num_references,
        "num_patches": bundle.num_patches,
        "threshold": bundle.threshold,
        "calibration": bundle.calibration,
        "backbone": bundle.backbone,
        "created_at": bundle.created_at,
    }


def _outputs(version: int, threshold: float, report: dict[str, Any]) -> list[Any]:
    return [
        tensor(BUNDLE_VERSION.name, [version], np.int64),
        tensor(THRESHOLD.name, [threshold], np.float32),
        text_tensor(ENROLL_REPORT.name, [json.dumps(report)]),
    ]
