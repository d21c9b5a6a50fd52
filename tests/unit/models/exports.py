"""Products on their way from one server to another, sound ones and forged ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from bundles import DIM, GRID, ONNX_SHA256
from store_files import hidden, visible

from durable_files import write_tensors
from product_files import publish_import
from refusals import InspectionRefused
from served_size import ServedSize
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE
from wire import VERSION_FILES

SERVED = ServedSize(
    label="28x42",
    ensemble="anomaly_dino_28x42",
    backbone="dinov2_vits14_28x42",
    grid=GRID,
    layer=12,
    name="dinov2_vits14",
    onnx_sha256=ONNX_SHA256,
    weights_sha256="b" * 64,
    file_sha256=ONNX_SHA256,
    native_runtime="",
    native_precision="",
    dim=DIM,
)
OTHER = replace(SERVED, label="448", ensemble="anomaly_dino_448", onnx_sha256="c" * 64)


def files_of(store, bundle):
    """The exported files of a version, by name."""
    return {
        name: store.file(bundle.product, bundle.version, name).read_bytes()
        for name in VERSION_FILES
    }


def imported(imports, store, files, product="washer", served=(OTHER, SERVED)):
    """Everything in one part per file, as `manage` does it."""
    arriving = imports.get("session", product)
    try:
        for name, content in files.items():
            arriving.add(name, 0, content)
        return publish_import(arriving, store, "bob", served)
    finally:
        imports.drop("session")


def refused(imports, store, files, **options):
    """Why an import is refused, which must leave nothing."""
    before = visible(store), store.changes("washer")
    with pytest.raises(InspectionRefused) as refusal:
        imported(imports, store, files, **options)
    assert (visible(store), store.changes("washer")) == before
    assert [name for name in hidden(store) if name.endswith(".partial")] == []
    return str(refusal.value)


def forged(files, record=None, **tensors):
    """The files with a changed record and changed tensors, the digests made to fit."""
    said = json.loads(files[BUNDLE_FILE])
    changed = dict(files)
    for name, key in ((BANK_FILE, "bank_sha256"), (GOOD_PARTS_FILE, "good_parts_sha256")):
        if name in tensors:
            changed[name] = tensors[name]
            said[key] = hashlib.sha256(tensors[name]).hexdigest()
    for key, value in (record or {}).items():
        part, _, inner = key.partition(".")
        if inner:
            said[part][inner] = value
        else:
            said[part] = value
    return changed | {BUNDLE_FILE: json.dumps(said).encode()}


def encoded(folder, tensors):
    """Tensors as a file holds them."""
    write_tensors(folder / "encoded", tensors)
    return (folder / "encoded").read_bytes()
