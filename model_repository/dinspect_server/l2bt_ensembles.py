"""The ensembles of L2BT's products: templates for new ones, and those of the products there are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dinspect_client import wire
from dinspect_server.ensemble_config import l2bt_config
from dinspect_server.triton_config import BackboneModel, config_text

logger = logging.getLogger(__name__)

# As `models/lib/students/product_ensembles.py` fills them in; a test holds both to each other.
_PRODUCT_MARK, _LAYER_MARKS = "@PRODUCT@", ("@LAYER_J@", "@LAYER_K@")


def write_templates(folder: Path, backbones: Iterable[BackboneModel]) -> None:
    """Write what the server makes a new product's ensembles from.

    Args:
        folder: Where ``manage`` looks for them.
        backbones: All that are served.
    """
    for backbone in backbones:
        if backbone.takes_students:
            for raw in (False, True):
                name = f"l2bt_{backbone.label}{'_raw' if raw else ''}.pbtxt"
                (folder / name).write_text(_template(backbone, raw=raw), encoding="utf-8")


def write_product_ensembles(
    models: Path, students: Path, by_digest: Mapping[str, BackboneModel]
) -> None:
    """Write the ensembles of every product that was trained on a backbone served here.

    Args:
        models: Folder of the models.
        students: The products' store.
        by_digest: Backbones by the digest of their graph.
    """
    for pointer in sorted(students.glob("*/current")):
        product = pointer.parent.name
        if not wire.is_product_name(product):  # what a killed writer left
            continue
        try:
            wanted = _ensembles_of(pointer.parent, by_digest)
        except OSError as error:
            logger.warning("L2BT product %s cannot be read, and is not served: %s", product, error)
            continue
        if not wanted:
            logger.warning(
                "L2BT product %s has no version that was trained on a backbone of this "
                "repository, and is not served",
                product,
            )
        for backbone, layers in wanted.items():
            for raw in (False, True):
                _write_ensemble(models, backbone, product, layers, raw=raw)


def _ensembles_of(
    product: Path, by_digest: Mapping[str, BackboneModel]
) -> dict[BackboneModel, tuple[int, int]]:
    """The backbones of a product's versions, as far as they are served, and the blocks taken.

    One backbone's are those of the version in force if it is of that backbone, else of the newest.
    """
    found: dict[BackboneModel, tuple[int, int]] = {}
    for path in _records(product):
        try:
            digest, (j, k) = _backbone_and_blocks(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(
                "version %s of L2BT product %s cannot be read: %s",
                path.parent.name,
                product.name,
                error,
            )
            continue
        backbone = by_digest.get(digest)
        if backbone is None or not backbone.takes_students or not {j, k} <= set(backbone.layers):
            continue
        if found.setdefault(backbone, (j, k)) != (j, k):
            logger.warning(
                "version %s of L2BT product %s takes other blocks than %s, and cannot be used",
                path.parent.name,
                product.name,
                found[backbone],
            )
    return found


def _records(product: Path) -> list[Path]:
    """Of a product's versions: that in force, and then the newest first."""
    numbers = [path.name for path in product.iterdir() if path.name.isdecimal()]
    current = (product / "current").read_text(encoding="utf-8", errors="replace").strip()
    numbers.sort(key=lambda number: (number == current, int(number)), reverse=True)
    return [product / number / wire.VERSION_FILES[0] for number in numbers]


def _backbone_and_blocks(path: Path) -> tuple[str, tuple[int, int]]:
    record: dict[str, Any] = json.loads(path.read_bytes())
    j, k = record["layers"]
    if not (type(j) is type(k) is int and j < k):
        raise ValueError(f"layers are {record['layers']}")
    return str(record["backbone"]["onnx_sha256"]), (j, k)


def _write_ensemble(
    models: Path, backbone: BackboneModel, product: str, layers: tuple[int, int], *, raw: bool
) -> None:
    """Letter by letter as the server makes it, which compares what there is with that."""
    text = _template(backbone, raw=raw)
    for mark, layer in zip(_LAYER_MARKS, layers, strict=True):
        text = text.replace(mark, str(layer))
    folder = models / wire.l2bt_model(product, backbone.label, raw=raw)
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text.replace(_PRODUCT_MARK, product), encoding="utf-8")


def _template(backbone: BackboneModel, *, raw: bool) -> str:
    return config_text(l2bt_config(backbone, _PRODUCT_MARK, _LAYER_MARKS, raw=raw))
