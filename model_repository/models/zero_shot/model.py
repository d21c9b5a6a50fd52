"""Triton model: images without references, each scored against all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from image_preparation import decode_image
from map_operator import anomaly_map
from memory_bank import RowFile
from option_checks import read_json
from refusals import InspectionRefused
from served_backbone import ServedBackbone
from served_size import choose_size, read_served_sizes
from sessions import Sessions
from triton_requests import answer_each, array, start, tensor, text_tensor, texts
from wire import (
    ANOMALY_MAP,
    ANOMALY_SCORE,
    PATCH_DISTANCES,
    ZERO_SHOT_IMAGES,
    ZERO_SHOT_OPTIONS,
    ZERO_SHOT_REPORT,
)
from zero_shot_batch import Batch
from zero_shot_options import ZeroShotOptions


class TritonPythonModel:
    """Adapter around `zero_shot_batch`; calls the served backbone for every image."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what is served; a batch's tokens lie beside the products until it is closed."""
        parameters = start(args)
        self.folder = Path(args["model_repository"]).parents[1] / "banks"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sizes = read_served_sizes(parameters["served_sizes"])
        self.sessions: Sessions[Batch] = Sessions("zero-shot batches")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Stage images, or score one."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        value = read_json(texts(request, ZERO_SHOT_OPTIONS)[0], "options are")
        options = ZeroShotOptions.from_json(value)
        try:
            if options.score is None:
                return self._stage(request, options)
            return self._score(request, options, options.score)
        finally:
            if options.close:
                self.sessions.drop(options.session)

    def _stage(self, request: Any, options: ZeroShotOptions) -> list[Any]:
        images = _images(request)
        if not images and not options.close:
            raise InspectionRefused("a part of a batch needs at least one image, or 'score'")
        batch = self.sessions.get(options.session)
        num_staged = len(batch.members) if batch else 0
        if images and num_staged != options.num_staged:
            raise InspectionRefused(
                f"session {options.session!r} holds {num_staged} images, the request follows "
                f"{options.num_staged}; say in 'num_staged' how many images it follows"
            )
        if images:
            batch = self._with(batch, options, images)
        report = {
            "session": options.session,
            "num_staged": len(batch.members) if batch else 0,
            "masked": batch.masked if batch else None,
            "masking_test": batch.masking_test if batch else None,
        }
        return [text_tensor(ZERO_SHOT_REPORT.name, [json.dumps(report)])]

    def _with(self, batch: Batch | None, options: ZeroShotOptions, images: list[bytes]) -> Batch:
        """The batch with a part's images; as it was before if they are refused."""
        first = (options.num_staged or 0) + 1
        names = options.image_names or tuple(f"#{first + i}" for i in range(len(images)))
        if len(names) != len(images):
            raise InspectionRefused(f"{len(names)} image_names for {len(images)} images")
        if batch is not None:
            options.check_repeats(batch.options)
        else:
            batch = self._begin(names[0], images[0], options)
            self.sessions.put(options.session, batch)
        try:
            batch.add(names, images, ServedBackbone(batch.served).tokens)
        except BaseException as error:
            # A refused part leaves no trace; after a fault nobody knows what was written.
            if not batch.members or not isinstance(error, InspectionRefused):
                self.sessions.drop(options.session)
            raise
        return batch

    def _begin(self, name: str, encoded: bytes, options: ZeroShotOptions) -> Batch:
        try:
            image = decode_image(encoded)
            image_size = (image.shape[0], image.shape[1])
            size = choose_size(self.sizes, image_size, options.resolution)
        except InspectionRefused as refusal:
            raise InspectionRefused(f"image {name}: {refusal}") from None
        runtime = ServedBackbone(size).runtime()
        return Batch.begin(size, image_size, options, runtime, RowFile(self.folder))

    def _score(self, request: Any, options: ZeroShotOptions, index: int) -> list[Any]:
        if _images(request):
            raise InspectionRefused("a request has images to stage, or 'score', not both")
        batch = self.sessions.get(options.session)
        if batch is None:
            raise InspectionRefused(f"there is no open session {options.session!r}")
        options.check_repeats(batch.options)
        distances = batch.distances(index)
        member = batch.members[index]
        outputs = [
            text_tensor(ZERO_SHOT_REPORT.name, [json.dumps(_report(batch, index))]),
            tensor(ANOMALY_SCORE.name, [batch.score(index, distances)], np.float32),
            tensor(PATCH_DISTANCES.name, distances, np.float32),
        ]
        if ANOMALY_MAP.name in request.requested_output_names():
            map_ = anomaly_map(distances, member.image_size)
            outputs.append(tensor(ANOMALY_MAP.name, map_, np.float32))
        return outputs


def _images(request: Any) -> list[bytes]:
    if pb_utils.get_input_tensor_by_name(request, ZERO_SHOT_IMAGES.name) is None:
        return []
    return list(array(request, ZERO_SHOT_IMAGES.name).reshape(-1))


def _report(batch: Batch, index: int) -> dict[str, Any]:
    served, member = batch.served, batch.members[index]
    return {
        "index": index,
        "name": member.name,
        "sha256": member.sha256,
        "num_images": len(batch.members),
        "num_bank_patches": batch.num_bank_patches,
        "num_nearest": batch.num_nearest,
        "backbone": served.identity() | batch.runtime,
    }
