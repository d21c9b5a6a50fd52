"""The client's calls for trained students: what they learn from, and their publication."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.codec import bytes_tensor, fault, version_from_answer
from dinspect_client.connection import plain_number
from dinspect_client.errors import ProductFileError, RequestRejected
from dinspect_client.images import ImageSource, encoded_image
from dinspect_client.uploading import FilePart, Uploading
from dinspect_client.versions import StudentsVersion
from dinspect_client.wire import ManageKey, ManageOperation, Method, TensorSpec

TRAINING_FILE, STUDENTS_FILE, GOOD_PARTS_FILE = wire.TRAINING_FILES

DIGEST_KEYS = {STUDENTS_FILE: "students_sha256", GOOD_PARTS_FILE: "good_parts_sha256"}
"""Where a version's record holds the digest of each file that it keeps."""


@dataclass(frozen=True)
class PatchTokens:
    """What the backbone makes of one image, padded to a square.

    Attributes:
        tokens: By one-based block, float32 ``(patches, width)``, patches row by row; read-only.
        image_size: Height and width of the image in pixels.
    """

    tokens: Mapping[int, NDArray[np.float32]]
    image_size: tuple[int, int]


class Publishing(Uploading):
    """Makes versions of products from students that were trained elsewhere."""

    def publish_students(
        self,
        product: str,
        training: Mapping[str, Any],
        students_onnx: bytes | str | os.PathLike[str],
        good_parts: bytes,
        *,
        activate: bool = True,
        operator: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> StudentsVersion:
        """Make a version for ``l2bt`` of a training's results.

        They travel in parts, each sent once; the version appears with the last one, or not at all.

        Args:
            product: Name of the product. If it has students already, these become its newest
                version.
            training: What the students are and how they were trained: keys as in
                ``wire.TrainingKey``, values of JSON; NumPy's numbers are numbers.
            students_onnx: The exported students: a file's path or its content.
            good_parts: Content of a safetensors file with ``patch_distances``, float32
                ``(images, rows, columns)``, of good images that the students had not seen.
            activate: Whether the version is in force at once; a product's first always is.
            operator: Who publishes, recorded.
            on_progress: Called after each part with the bytes done and all bytes.

        Returns:
            The version that the server made of exactly these students.

        Raises:
            ProductFileError: If a file cannot be read, or is empty.
            RequestRejected: If the name is none, the training is no JSON, or the server refuses
                something: nothing is published.
            ServerFault: If the server made a version of something else than was sent.
            InspectionError: Another subclass. Whether the version was made is unknown after
                RequestTimeout and ServerUnreachable, see ``history``.
        """
        if not wire.is_product_name(product):
            raise RequestRejected(
                f"product {product!r} cannot be published: expected a name of 1-64 letters, "
                "digits, '_', '.', '-', without a version"
            )
        files = _training_files(training, students_onnx, good_parts)
        num_bytes = sum(map(len, files.values()))
        asked = {
            ManageKey.OPERATION: ManageOperation.PUBLISH,
            ManageKey.METHOD: Method.L2BT,
            ManageKey.OPERATOR: operator,
        }
        answer = self._upload(
            product,
            asked,
            _parts(files),
            num_bytes,
            None if on_progress is None else lambda done: on_progress(done, num_bytes),
            with_last={ManageKey.ACTIVATE: activate},
        )
        self._ensembles.pop((product, Method.L2BT), None)  # it may be of another resolution
        version = version_from_answer(answer, wire.MANAGE_REPORT, StudentsVersion, product)
        for name, key in DIGEST_KEYS.items():
            if getattr(version, key) != hashlib.sha256(files[name]).hexdigest():
                raise fault(answer, f"{version.reference} has another {key} than was sent")
        return version

    def patch_tokens(self, image: ImageSource, label: str, layers: Sequence[int]) -> PatchTokens:
        """Have the backbone's patch tokens of an image, padded to a square: what students see.

        Args:
            image: As in ``inspect``.
            label: Input size of the backbone, as ``wire.grid_label`` names it: ``448``.
            layers: One-based blocks of the backbone, each one that it was exported with.

        Returns:
            The tokens, and the size of the image.

        Raises:
            InvalidImageError: If the image cannot be sent.
            RequestRejected: If no block is named, or the server cannot use the image.
            ProtocolMismatch: If the backbone does not put out one of the blocks.
            InspectionError: Another subclass.
        """
        if not layers:
            raise RequestRejected("no block of the backbone to take patch tokens of; name one")
        specs = {layer: _tokens_of(layer) for layer in layers}
        outputs = [*specs.values(), wire.IMAGE_SIZE]
        payload = bytes_tensor([encoded_image(image)])
        model_name = wire.patch_tokens_model(label)
        self._check_contract(model_name, (wire.IMAGE,), outputs)
        answer = self._transport.infer(
            model_name,
            [(wire.IMAGE, payload)],
            outputs,
            timeout_s=self._timeout_s,
            batched=True,
            retry=True,
        )
        tokens = {layer: answer.tensors[spec.name] for layer, spec in specs.items()}
        shapes = {layer: array.shape for layer, array in tokens.items()}
        if len(set(shapes.values())) > 1:
            raise fault(answer, f"the blocks of one image have tokens of shapes {shapes}")
        height, width = answer.tensors[wire.IMAGE_SIZE.name]
        return PatchTokens(tokens, (int(height), int(width)))


def _tokens_of(layer: int) -> TensorSpec:
    return TensorSpec(
        f"patch_tokens_{layer}", "FP32", (-1, -1), f"patch tokens of block {layer}, row by row"
    )


def _training_files(
    training: Mapping[str, Any], students_onnx: bytes | str | os.PathLike[str], good_parts: bytes
) -> dict[str, bytes]:
    contents = (_training_json(training), _content(students_onnx), good_parts)
    files = dict(zip(wire.TRAINING_FILES, contents, strict=True))
    for name, content in files.items():
        if not content:
            raise ProductFileError(f"{name} is empty, expected what a training made; train again")
    return files


def _training_json(training: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(training), default=plain_number, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RequestRejected(
            f"training cannot be written as {TRAINING_FILE} ({error}); expected finite numbers, "
            "text, flags, lists and objects"
        ) from error


def _content(students_onnx: bytes | str | os.PathLike[str]) -> bytes:
    """The students' file, read once: what is sent is what the digest is taken of."""
    if isinstance(students_onnx, bytes):
        return students_onnx
    try:
        return Path(students_onnx).read_bytes()
    except OSError as error:
        shown = os.fspath(students_onnx)
        raise ProductFileError(f"cannot read {shown}: {error.strerror}") from error


def _parts(files: Mapping[str, bytes]) -> Iterator[FilePart]:
    for name, content in files.items():
        for offset in range(0, len(content), wire.MAX_CONTENT_BYTES):
            yield FilePart(name, offset, content[offset : offset + wire.MAX_CONTENT_BYTES])
