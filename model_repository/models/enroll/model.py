"""Triton model: good images in, a versioned bundle out, through the backbone that will serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bank_store import BankStore, Bundle
from enrolment import Enrolment, EnrolOptions, Sessions
from image_preparation import decode_image
from nearest_neighbours import search_precision
from refusals import InspectionRefused
from served_backbone import ServedBackbone
from served_size import choose_size, read_served_sizes
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


class TritonPythonModel:
    """Adapter around `enrolment`; calls the served backbone for every reference."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store and clear what a killed enrolment left."""
        parameters = start(args)
        self.store = BankStore(Path(args["model_repository"]).parents[1] / "banks")
        self.store.remove_leftovers()
        self.sizes = read_served_sizes(parameters["served_sizes"])
        self.sessions = Sessions()
        self.search_precision = search_precision(parameters["search_precision"])
        self.max_bank_bytes = int(parameters["max_bank_bytes"])

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
        enrolment = self._opened(product, options)
        try:
            enrolment = self._gather(enrolment, product, request, options)
            if not options.commit:
                self.sessions.put(options.session, enrolment)
                report = {"session": options.session, "num_staged": len(enrolment.tokens)}
                return _outputs(0, 0.0, report)
            backbone = ServedBackbone(enrolment.served)
            bundle = enrolment.publish(
                self.store,
                backbone.runtime(),
                self.search_precision,
                backbone.tokens,
            )
        except BaseException:
            # Half an enrolment must not be continued as if the failed part had been taken.
            self.sessions.drop(options.session)
            raise
        self.sessions.drop(options.session)
        return _outputs(bundle.version, bundle.threshold, _report(bundle))

    def _opened(self, product: str, options: EnrolOptions) -> Enrolment | None:
        """The session's enrolment so far; None when this is its first part."""
        enrolment = self.sessions.get(options.session) if options.session else None
        if not options.commit and not options.session:
            raise InspectionRefused("commit is false but no session is named to continue")
        if enrolment is not None and enrolment.product != product:
            raise InspectionRefused(
                f"session {options.session!r} enrols '{enrolment.product}', not '{product}'"
            )
        num_staged = len(enrolment.tokens) if enrolment else 0
        if num_staged != options.num_staged:
            raise InspectionRefused(
                f"session {options.session!r} holds {num_staged} images, the request follows "
                f"{options.num_staged}; nothing was enrolled, begin again with a new session"
            )
        if enrolment is None:
            return None
        options.check_repeats(enrolment.options)
        return enrolment

    def _gather(
        self, enrolment: Enrolment | None, product: str, request: Any, options: EnrolOptions
    ) -> Enrolment:
        """The enrolment with this request's images added."""
        images = array(request, ENROLL_IMAGES.name).reshape(-1).tolist()
        names = options.image_names or tuple(
            f"#{options.num_staged + offset + 1}" for offset in range(len(images))
        )
        if len(names) != len(images):
            raise InspectionRefused(f"{len(names)} image_names for {len(images)} images")
        if enrolment is None:
            if not images:
                raise InspectionRefused("an enrolment needs at least one image of a good part")
            try:
                enrolment = self._begin(product, images[0], options)
            except InspectionRefused as refusal:
                raise InspectionRefused(f"reference {names[0]}: {refusal}") from None
        for name, encoded in zip(names, images, strict=True):
            enrolment.add(name, encoded, ServedBackbone(enrolment.served).tokens)
        return enrolment

    def _begin(self, product: str, encoded: bytes, options: EnrolOptions) -> Enrolment:
        image = decode_image(encoded)
        image_size = (image.shape[0], image.shape[1])
        size = choose_size(self.sizes, image_size, options.resolution)
        return Enrolment(product, size, image_size, image, options, self.max_bank_bytes)


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
        "normal_below": bundle.normal_below,
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
