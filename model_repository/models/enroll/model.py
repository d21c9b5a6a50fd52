"""Triton model: good images in, a versioned bundle out, through the backbone that will serve."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bank_store import BankStore
from enrol_options import EnrolOptions
from enrolment import Enrolment
from image_preparation import decode_image
from memory_bank import RowFile
from nearest_neighbours import search_precision
from new_version import publish
from option_checks import read_json
from refusals import InspectionRefused
from served_backbone import ServedBackbone
from served_size import choose_size, read_served_sizes
from sessions import Sessions
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
        self.sessions: Sessions[Enrolment] = Sessions("enrolments")
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
                report = {"session": options.session, "num_staged": enrolment.num_staged}
                return _outputs(0, 0.0, report)
            if not enrolment.num_staged:
                raise InspectionRefused("an enrolment needs at least one image of a good part")
            backbone = ServedBackbone(enrolment.served)
            bundle = publish(enrolment, self.store, backbone.runtime(), backbone.tokens)
        except BaseException:
            # Half an enrolment must not be continued as if the failed part had been taken.
            self.sessions.drop(options.session)
            raise
        enrolment.close()
        self.sessions.drop(options.session)
        return _outputs(bundle.version, bundle.threshold, asdict(bundle))

    def _opened(self, product: str, options: EnrolOptions) -> Enrolment | None:
        """The session's enrolment so far; None when this is its first part."""
        enrolment = self.sessions.get(options.session) if options.session else None
        if not options.commit and not options.session:
            raise InspectionRefused("commit is false but no session is named to continue")
        if enrolment is not None and enrolment.product != product:
            raise InspectionRefused(
                f"session {options.session!r} enrols '{enrolment.product}', not '{product}'"
            )
        num_staged = enrolment.num_staged if enrolment else 0
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
            enrolment = self._begin(product, images, names, options)
        for name, encoded in zip(names, images, strict=True):
            enrolment.add(name, encoded, options.role, ServedBackbone(enrolment.served).tokens)
        return enrolment

    def _begin(
        self, product: str, images: list[bytes], names: tuple[str, ...], options: EnrolOptions
    ) -> Enrolment:
        limits: dict[str, Any] = {
            "reference_rows": RowFile(self.store.root),
            "good_rows": RowFile(self.store.root),
            "search_precision": self.search_precision,
            "max_bank_bytes": self.max_bank_bytes,
        }
        if options.append:
            return self._continue(product, options, limits)
        if not images:
            raise InspectionRefused("an enrolment needs at least one image of a good part")
        try:
            image = decode_image(images[0])
            image_size = (image.shape[0], image.shape[1])
            size = choose_size(self.sizes, image_size, options.resolution)
        except InspectionRefused as refusal:
            raise InspectionRefused(f"reference {names[0]}: {refusal}") from None
        return Enrolment.begin(product, size, image_size, options, **limits)

    def _continue(self, product: str, options: EnrolOptions, limits: dict[str, Any]) -> Enrolment:
        base = self.store.read_bundle(*self.store.resolve(product))
        served = {size.onnx_sha256: size for size in self.sizes}
        size = served.get(base.backbone["onnx_sha256"])
        if size is None:
            raise InspectionRefused(
                f"'{product}' was enrolled with backbone {base.backbone['onnx_sha256'][:12]}, "
                "which is not served any more; enrol it again"
            )
        return Enrolment.continued(base, self.store.read_bank(base), size, options, **limits)


def _options(request: Any) -> EnrolOptions:
    if pb_utils.get_input_tensor_by_name(request, ENROLL_OPTIONS.name) is None:
        return EnrolOptions()
    return EnrolOptions.from_json(read_json(texts(request, ENROLL_OPTIONS)[0], "options are"))


def _outputs(version: int, threshold: float, report: dict[str, Any]) -> list[Any]:
    return [
        tensor(BUNDLE_VERSION.name, [version], np.int64),
        tensor(THRESHOLD.name, [threshold], np.float32),
        text_tensor(ENROLL_REPORT.name, [json.dumps(report)]),
    ]
