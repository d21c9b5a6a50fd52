"""Students ready to run, the least recently used leaving first under a byte limit."""

from __future__ import annotations

from collections import OrderedDict

from refusals import InspectionRefused
from student_runner import StudentRunner, check_fits, students_size_bytes
from student_scoring import StudentScorer
from students_record import StudentsRecord
from students_store import StudentsStore

MAX_RECORDS = 256
"""Versions whose records are kept; each names all its images."""


class StudentsCache:
    """Loads students on first use.

    Versions that share students, such as those before and after a change of a threshold, share
    what is loaded of them.

    Args:
        store: Where the versions are.
        onnx_sha256: Digest of the backbone this server runs; students of another are refused.
        runtime: See `StudentRunner`.
        precision: See `StudentRunner`.
        max_bytes: Limit of all loaded students together.
    """

    def __init__(
        self,
        store: StudentsStore,
        onnx_sha256: str,
        runtime: str,
        precision: str,
        max_bytes: int,
    ) -> None:
        self._store = store
        self._onnx_sha256 = onnx_sha256
        self._runtime, self._precision = runtime, precision
        self._max_bytes = max_bytes
        self._records: OrderedDict[tuple[str, int, tuple[int, int]], StudentsRecord] = OrderedDict()
        self._runners: OrderedDict[str, StudentRunner] = OrderedDict()

    def get(self, reference: str) -> StudentScorer:
        """What scores images for a product reference right now.

        The version pointer is read at every call, so a version that came into force answers the
        next request.

        Raises:
            InspectionRefused: If there is no such version, it is of another backbone, is damaged,
                or exceeds the limit alone.
        """
        record = self._record(*self._store.resolve(reference))
        return StudentScorer(record, self._runner(record))

    @property
    def loaded_bytes(self) -> int:
        """Memory that the loaded students take, estimated."""
        return sum(runner.size_bytes for runner in self._runners.values())

    def _record(self, product: str, version: int) -> StudentsRecord:
        key = (product, version, self._store.stamp(product, version))
        if key not in self._records:
            self._records[key] = self._checked(self._store.read_bundle(product, version))
            if len(self._records) > MAX_RECORDS:
                self._records.popitem(last=False)
        self._records.move_to_end(key)
        return self._records[key]

    def _checked(self, record: StudentsRecord) -> StudentsRecord:
        digest = record.backbone["onnx_sha256"]
        if digest != self._onnx_sha256:
            raise InspectionRefused(
                f"version {record.version} of product '{record.product}' was trained for "
                f"{record.ensemble} with backbone {digest[:12]}, but this model runs "
                f"{self._onnx_sha256[:12]}; ask that model, or train the product again"
            )
        return record

    def _runner(self, record: StudentsRecord) -> StudentRunner:
        key = record.students_sha256
        if key not in self._runners:
            file = self._store.students_file(record)
            needed = students_size_bytes(file, record.patch_grid, record.dim)
            check_fits(record.product, needed, self._max_bytes)
            # Before the new ones take memory of their own.
            while self._runners and self.loaded_bytes + needed > self._max_bytes:
                self._runners.popitem(last=False)
            self._runners[key] = StudentRunner(
                file, record.layers, record.patch_grid, record.dim, self._runtime, self._precision
            )
        self._runners.move_to_end(key)
        return self._runners[key]
