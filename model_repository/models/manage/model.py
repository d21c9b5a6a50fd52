"""Triton model: the life of a product after its enrolment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bank_search import ServerLimits
from bank_store import BankStore
from bundle import Bundle
from change_log import now
from nearest_neighbours import search_precision
from option_checks import is_flag, is_integer, is_text, read_json, read_options, require
from product_changes import (
    REGION_KEYS,
    THRESHOLD_KEYS,
    change_region,
    change_thresholds,
)
from product_files import Imports, read_part
from refusals import InspectionRefused
from served_size import read_served_sizes
from triton_requests import answer_each, start, tensor, text_tensor, texts
from wire import (
    BUNDLE_VERSION,
    MANAGE_CONTENT,
    MANAGE_REPORT,
    MANAGE_REQUEST,
    PRODUCT,
    ManageOperation,
    is_product_name,
    parse_product,
)

_KEYS = {"operation", "operator", "file", "offset", "session", "commit"}


class TritonPythonModel:
    """Adapter around `bank_store`, `product_changes` and `product_files`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store and clear what a killed import left."""
        parameters = start(args)
        self.store = BankStore(Path(args["model_repository"]).parents[1] / "banks")
        self.store.remove_leftovers()
        self.sizes = read_served_sizes(parameters["served_sizes"])
        # A bank may take less memory when loaded than its file on disk, but not half.
        self.max_bank_bytes = int(parameters["max_bank_bytes"])
        self.imports = Imports(self.store, 2 * self.max_bank_bytes)
        self.requested_precision = parameters["search_precision"]
        self.operations: dict[str, Callable[..., tuple[int, dict[str, Any], bytes]]] = {
            ManageOperation.HISTORY: self._history,
            ManageOperation.ACTIVATE: self._activate,
            ManageOperation.DELETE: self._delete,
            ManageOperation.THRESHOLD: self._threshold,
            ManageOperation.REGION: self._region,
            ManageOperation.READ: self._read,
            ManageOperation.IMPORT: self._import,
        }

    @cached_property
    def limits(self) -> ServerLimits:
        """What this server can load; made on first use, for it asks OpenVINO."""
        backbones = frozenset(size.onnx_sha256 for size in self.sizes)
        return ServerLimits(
            backbones, search_precision(self.requested_precision), self.max_bank_bytes
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Do what each request asks for."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        value = read_json(texts(request, MANAGE_REQUEST)[0], "the request is")
        asked = read_options(value, _KEYS | set(THRESHOLD_KEYS) | set(REGION_KEYS))
        name = asked.get("operation")
        known = ", ".join(self.operations)
        require(is_text(name) and name in self.operations, "operation", f"one of {known}", name)
        for key in ("operator", "session"):
            require(is_text(asked.get(key, "")), key, "a short string", asked.get(key))
        content = pb_utils.get_input_tensor_by_name(request, MANAGE_CONTENT.name)
        sent = b"" if content is None else bytes(content.as_numpy().reshape(-1)[0])
        reference = texts(request, PRODUCT)[0]
        version, report, found = self.operations[str(name)](reference, asked, sent)
        return [
            tensor(BUNDLE_VERSION.name, [version], np.int64),
            text_tensor(MANAGE_REPORT.name, [json.dumps(report)]),
            pb_utils.Tensor(MANAGE_CONTENT.name, np.array([found], dtype=object)),
        ]

    def _history(
        self, reference: str, asked: Any, sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        product, current = self.store.resolve(_pinned(reference)[0])
        versions = [self._record(product, version) for version in self.store.versions(product)]
        report = {
            "product": product,
            "current": current,
            "versions": versions,
            "changes": self.store.changes(product),
        }
        return current, report, b""

    def _record(self, product: str, version: int) -> dict[str, Any]:
        """One damaged version must not hide the others."""
        try:
            return asdict(self.store.read_bundle(product, version))
        except InspectionRefused as refusal:
            return {"product": product, "version": version, "error": str(refusal)}

    def _activate(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        product, version = _pinned(reference)
        if version is None:
            raise InspectionRefused(f"say which version of '{product}' to activate: {product}@3")
        check = self.limits.needed_bytes
        return _made(self.store.activate(product, version, _operator(asked), now(), check))

    def _delete(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        product, version = _pinned(reference)
        deleted = self.store.delete(product, version, _operator(asked), now())
        return version or 0, {"product": product, "deleted": deleted}, b""

    def _threshold(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        chosen = {key: asked[key] for key in THRESHOLD_KEYS if key in asked}
        base = self._in_force(reference)
        return _made(change_thresholds(self.store, base, chosen, _operator(asked)))

    def _region(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        chosen = {key: asked[key] for key in REGION_KEYS if key in asked}
        base = self._in_force(reference)
        return _made(change_region(self.store, base, chosen, sent, _operator(asked)))

    def _in_force(self, reference: str) -> Bundle:
        product, version = _pinned(reference)
        if version is not None:
            raise InspectionRefused(
                f"what is changed is the version in force; activate {reference} first"
            )
        return self.store.read_bundle(*self.store.resolve(product))

    def _read(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        bundle = self.store.read_bundle(*self.store.resolve(reference))
        offset = asked.get("offset", 0)
        require(is_integer(offset, 0), "offset", "0 or more", offset)
        part, size = read_part(self.store, bundle, asked.get("file"), offset)
        return bundle.version, {"product": bundle.product, "file_bytes": size}, part

    def _import(
        self, reference: str, asked: dict[str, Any], sent: bytes
    ) -> tuple[int, dict[str, Any], bytes]:
        if not is_product_name(reference):
            raise InspectionRefused(f"{reference!r} is no product name to import under")
        session, offset = asked.get("session", ""), asked.get("offset", 0)
        require(bool(session), "session", "a name that joins the parts", session)
        require(is_integer(offset, 0), "offset", "0 or more", offset)
        require(is_flag(asked.get("commit", False)), "commit", "true or false", asked.get("commit"))
        arriving = self.imports.get(session, reference)
        try:
            arriving.add(asked.get("file"), offset, sent)
            if not asked.get("commit", False):
                return 0, {"product": reference, "received": offset + len(sent)}, b""
            check = self.limits.needed_bytes
            bundle = arriving.publish(self.store, _operator(asked), self.sizes, check)
        except BaseException:
            self.imports.drop(session)
            raise
        self.imports.drop(session)
        return _made(bundle)


def _pinned(reference: str) -> tuple[str, int | None]:
    try:
        return parse_product(reference)
    except ValueError as error:
        raise InspectionRefused(str(error)) from None


def _operator(asked: dict[str, Any]) -> str:
    return str(asked.get("operator", ""))


def _made(bundle: Bundle) -> tuple[int, dict[str, Any], bytes]:
    return bundle.version, asdict(bundle), b""
