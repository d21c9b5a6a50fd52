"""Memory banks ready to search, the least recently used leaving first under a byte limit."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from bank_store import BankStore, Bundle
from nearest_neighbours import CosineSearch
from refusals import InspectionRefused

_Key = tuple[str, int, tuple[int, int]]


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle with its compiled search."""

    bundle: Bundle
    search: CosineSearch
    size_bytes: int


class BankCache:
    """Loads banks on first use.

    Args:
        store: Where the bundles are.
        onnx_sha256: Digest of the backbone this server runs; a bank of another is refused.
        precision: Of the search.
        max_bytes: Limit of all loaded banks together.
    """

    def __init__(self, store: BankStore, onnx_sha256: str, precision: str, max_bytes: int) -> None:
        self._store = store
        self._onnx_sha256 = onnx_sha256
        self._precision = precision
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[_Key, LoadedBundle] = OrderedDict()

    def get(self, reference: str) -> LoadedBundle:
        """The bundle that a product reference names right now.

        The version pointer is read at every call, so a newly enrolled version answers the next
        request.

        Raises:
            InspectionRefused: If there is no such bundle, it was made by another backbone, is
                damaged, or exceeds the limit alone.
        """
        product, version = self._store.resolve(reference)
        key = (product, version, self._store.stamp(product, version))
        if key not in self._loaded:
            self._loaded[key] = self._load(product, version)
            self._evict()
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _load(self, product: str, version: int) -> LoadedBundle:
        bundle = self._store.read_bundle(product, version)
        if bundle.backbone["onnx_sha256"] != self._onnx_sha256:
            raise InspectionRefused(
                f"version {version} of product '{product}' was enrolled for {bundle.ensemble} with "
                f"backbone {bundle.backbone['onnx_sha256'][:12]}, but this model runs "
                f"{self._onnx_sha256[:12]}; ask that model, or enrol the product again"
            )
        size_bytes = bundle.num_patches * bundle.dim * 4
        if size_bytes > self._max_bytes:
            raise InspectionRefused(
                f"the memory bank of product '{product}' needs {size_bytes} bytes, the server "
                f"allows {self._max_bytes}; enrol fewer references or raise the limit"
            )
        bank = self._store.read_bank(bundle)
        num_queries = bundle.grid[0] * bundle.grid[1]
        return LoadedBundle(bundle, CosineSearch(bank, num_queries, self._precision), size_bytes)

    def _evict(self) -> None:
        newest = next(reversed(self._loaded))
        total = sum(loaded.size_bytes for loaded in self._loaded.values())
        while total > self._max_bytes:
            key = next(key for key in self._loaded if key != newest)
            total -= self._loaded.pop(key).size_bytes
