"""Memory banks ready to search, the least recently used leaving first under a byte limit."""

from __future__ import annotations

from collections import OrderedDict

from bank_search import Search, ServerLimits, open_bank
from bank_store import BankStore
from bundle import Bundle
from patch_scoring import PatchScorer
from refusals import InspectionRefused

_Version = tuple[str, int, tuple[int, int]]
_Bank = tuple[str, str, int, int]

MAX_SCORERS = 4096
"""Versions whose records are kept; each is a few kilobytes."""


class BankCache:
    """Loads banks on first use.

    Versions that share a bank, such as those before and after a change of a threshold, share what
    is loaded of it.

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
        self._limits = ServerLimits(frozenset({onnx_sha256}), precision, max_bytes)
        self._bundles: OrderedDict[_Version, Bundle] = OrderedDict()
        self._searches: OrderedDict[_Bank, Search] = OrderedDict()

    def get(self, reference: str) -> PatchScorer:
        """What scores images for a product reference right now.

        The version pointer is read at every call, so a version that came into force answers the
        next request.

        Raises:
            InspectionRefused: If there is no such bundle, it was made by another backbone, is
                damaged, or exceeds the limit alone.
        """
        product, version = self._store.resolve(reference)
        bundle = self._bundle(product, version)
        return PatchScorer(bundle, self._search(bundle))

    @property
    def loaded_bytes(self) -> int:
        """Memory that the loaded banks take."""
        return sum(search.size_bytes for search in self._searches.values())

    def _bundle(self, product: str, version: int) -> Bundle:
        key = (product, version, self._store.stamp(product, version))
        if key not in self._bundles:
            self._bundles[key] = self._checked(self._store.read_bundle(product, version))
            if len(self._bundles) > MAX_SCORERS:
                self._bundles.popitem(last=False)
        self._bundles.move_to_end(key)
        return self._bundles[key]

    def _checked(self, bundle: Bundle) -> Bundle:
        if bundle.backbone["onnx_sha256"] != self._onnx_sha256:
            raise InspectionRefused(
                f"version {bundle.version} of product '{bundle.product}' was enrolled for "
                f"{bundle.ensemble} with backbone {bundle.backbone['onnx_sha256'][:12]}, but this "
                f"model runs {self._onnx_sha256[:12]}; ask that model, or enrol the product again"
            )
        return bundle

    def _search(self, bundle: Bundle) -> Search:
        scoring = bundle.scoring
        key = (bundle.bank_sha256, scoring.search, scoring.num_probes, scoring.num_neighbours)
        if key not in self._searches:
            needed = self._limits.needed_bytes(bundle)
            bank = self._store.read_bank(bundle)  # first: a damaged one pushes no other out
            self._make_room(needed)
            num_queries = bundle.grid[0] * bundle.grid[1]
            self._searches[key] = open_bank(bank, scoring, num_queries, self._precision)
        self._searches.move_to_end(key)
        return self._searches[key]

    def _make_room(self, needed: int) -> None:
        """Drop what was not used for longest, before the new bank takes memory of its own."""
        while self._searches and self.loaded_bytes + needed > self._max_bytes:
            self._searches.popitem(last=False)
