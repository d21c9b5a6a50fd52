"""The life of an AnomalyDINO product after its enrolment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from arriving_files import Arrivals, ArrivingFiles
from bank_search import ServerLimits
from bank_store import BankStore
from bundle import Bundle
from management import Asked, Done, Management, Operation
from nearest_neighbours import search_precision
from option_checks import is_integer, require
from product_changes import REGION_KEYS, THRESHOLD_KEYS, change_region, change_thresholds
from product_files import publish_import, read_part
from served_size import ServedSize
from wire import VERSION_FILES, ManageOperation


class BankManagement(Management[Bundle]):
    """What can be done to AnomalyDINO's products.

    Args:
        store: The products.
        sizes: The input sizes of this server.
        precision: Of the search, as the server was assembled.
        max_bank_bytes: Memory for loaded banks.
    """

    store: BankStore

    def __init__(
        self, store: BankStore, sizes: Sequence[ServedSize], precision: str, max_bank_bytes: int
    ) -> None:
        super().__init__(store)
        self._sizes = sizes
        self._precision = precision
        self._max_bank_bytes = max_bank_bytes
        # A bank may take less memory when loaded than its file on disk, but not half.
        self._imports = Arrivals(store, VERSION_FILES, 2 * max_bank_bytes, "imports")

    @cached_property
    def limits(self) -> ServerLimits:
        """What this server can load; made on first use, for it asks OpenVINO."""
        backbones = frozenset(size.onnx_sha256 for size in self._sizes)
        return ServerLimits(backbones, search_precision(self._precision), self._max_bank_bytes)

    def operations(self) -> dict[str, Operation]:
        """What can be asked for, by `wire.ManageOperation`."""
        return super().operations() | {
            ManageOperation.THRESHOLD: self.change_thresholds,
            ManageOperation.REGION: self.change_region,
            ManageOperation.READ: self.read,
            ManageOperation.IMPORT: self.import_part,
        }

    def check_servable(self, record: Bundle) -> None:
        """Refuse a bank that this server cannot load, or of another backbone."""
        self.limits.needed_bytes(record)

    def change_thresholds(self, asked: Asked) -> Done:
        """Other thresholds, by hand or by rates."""
        base, chosen = self.in_force(asked), asked.chosen(THRESHOLD_KEYS)
        return Done.made(change_thresholds(self.store, base, chosen, asked.operator))

    def change_region(self, asked: Asked) -> Done:
        """Another region, or another smallest defect that counts."""
        base, chosen = self.in_force(asked), asked.chosen(REGION_KEYS)
        return Done.made(change_region(self.store, base, chosen, asked.content, asked.operator))

    def read(self, asked: Asked) -> Done:
        """Part of a version's file."""
        bundle = self.store.read_bundle(*self.store.resolve(asked.reference))
        offset = asked.options.get("offset", 0)
        require(is_integer(offset, 0), "offset", "0 or more", offset)
        part, size = read_part(self.store, bundle, asked.options.get("file"), offset)
        return Done(bundle.version, {"product": bundle.product, "file_bytes": size}, part)

    def import_part(self, asked: Asked) -> Done:
        """Part of a version's file that arrives; the last makes it a version."""

        def publish(arrived: ArrivingFiles) -> Bundle:
            check = self.check_servable
            return publish_import(arrived, self.store, asked.operator, self._sizes, check)

        return self.arrive(self._imports, asked, publish)
