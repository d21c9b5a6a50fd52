"""Small enrolments: drawn images, a stand-in for the backbone, and the way to a version."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from bank_store import BankStore
from enrol_options import EnrolOptions
from enrolment import Enrolment
from memory_bank import RowFile
from new_version import publish
from served_size import ServedSize

GRID = (12, 15)
IMAGE_SIZE = (168, 210)
PATCHES = 180
SERVED = ServedSize(
    label="168x210",
    ensemble="anomaly_dino_168x210",
    backbone="tiny",
    grid=GRID,
    layer=12,
    name="dinov2_vits14",
    onnx_sha256="a" * 64,
    weights_sha256="b" * 64,
    file_sha256="c" * 64,
    native_runtime="",
    native_precision="",
)
RUNTIME = {"runtime": "openvino 1", "precision": "fp32"}
TEXTURE = EnrolOptions(texture=True)


def tokens_of(pixels):
    """Stands in for the backbone: four mean colours of each 14 px patch, a constant, its place.

    Bright patches have long tokens, so that what is bright is the foreground.
    """
    rows, columns = pixels.shape[0] // 14, pixels.shape[1] // 14
    quarters = pixels.reshape(rows, 2, 7, columns, 2, 7, 3).mean((2, 5))  # r, 2, c, 2, 3
    colours = quarters.transpose(0, 2, 1, 3, 4).reshape(rows * columns, 12)
    places = np.indices((rows, columns)).reshape(2, -1).T / 100.0
    constant = np.full((rows * columns, 1), 50.0)
    return np.concatenate([colours, constant, places], axis=1).astype(np.float32)


def surface(seed, size=IMAGE_SIZE, darkest=0, brightest=256):
    """``(H, W, 3)`` uint8 of random 7 px blocks: a texture without background."""
    shape = (-(-size[0] // 7), -(-size[1] // 7), 3)
    blocks = np.random.default_rng(seed).integers(darkest, brightest, shape, dtype=np.uint8)
    return blocks.repeat(7, axis=0).repeat(7, axis=1)[: size[0], : size[1]]


OBJECT = np.zeros(GRID, bool)
OBJECT[4:8, 4:11] = True
"""Patches that `part` shows; a mask has one more all around."""


def part(seed, shown=OBJECT):
    """``(H, W, 3)`` uint8: a bright object on a dark background, each with its own noise."""
    inside = shown.repeat(14, axis=0).repeat(14, axis=1)[..., None]
    size = inside.shape[:2]
    return np.where(inside, surface(seed, size, 180), surface(seed + 1000, size, 0, 8))


def png(image):
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


_opened = []


def limits(folder, precision="fp32", max_bank_bytes=1 << 30):
    """What an enrolment needs besides its options; `close_all` closes its files."""
    reference_rows, good_rows = RowFile(folder), RowFile(folder)
    _opened.extend([reference_rows, good_rows])
    return {
        "reference_rows": reference_rows,
        "good_rows": good_rows,
        "search_precision": precision,
        "max_bank_bytes": max_bank_bytes,
    }


def close_all():
    """Close the files of all enrolments, also of those that were refused."""
    while _opened:
        _opened.pop().close()


def begun(folder, options=TEXTURE, served=SERVED, size=IMAGE_SIZE, **chosen):
    """An enrolment without images."""
    return Enrolment.begin("screw", served, size, options, **limits(folder, **chosen))


def add(enrolment, images, role="reference", first=0):
    """Add images, named by their number and their role."""
    for number, image in enumerate(images, start=first):
        enrolment.add(f"{role}-{number}.png", png(image), role, tokens_of)
    return enrolment


def enrol(root, images, options=TEXTURE, good=(), **chosen):
    """Publish an enrolment of images; returns the store and the version."""
    store = BankStore(root)
    enrolment = add(begun(root, options, **chosen), images)
    add(enrolment, good, "good")
    return store, finish(enrolment, store)


def append(store, base, images, options=None, good=(), **chosen):
    """Publish a version that continues another."""
    options = options or EnrolOptions(append=True)
    enrolment = Enrolment.continued(
        base, store.read_bank(base), SERVED, options, **limits(store.root, **chosen)
    )
    add(enrolment, images, first=base.num_references)
    add(enrolment, good, "good", first=len(base.calibration.good_images))
    return finish(enrolment, store)


def finish(enrolment, store):
    """Publish and close an enrolment."""
    bundle = publish(enrolment, store, RUNTIME, tokens_of)
    enrolment.close()
    return bundle
