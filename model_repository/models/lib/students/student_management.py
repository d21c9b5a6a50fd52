"""The life of an L2BT product from its publication on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arriving_files import Arrivals, ArrivingFiles
from management import Asked, Done, Management, Operation
from option_checks import is_flag, require
from product_ensembles import ProductEnsembles
from refusals import InspectionRefused
from served_size import ServedSize
from student_runner import check_fits, students_size_bytes
from student_thresholds import change_student_thresholds
from students_record import StudentsRecord
from students_store import STUDENTS_FILE, StudentsStore
from trained_students import StudentsRuntime, publish_students, read_report, size_of
from wire import TRAINING_FILES, ManageOperation

THRESHOLD_KEYS = ("threshold", "normal_below", "false_positive_rate", "undecided_rate")
_REPORT_FILE = TRAINING_FILES[0]


class StudentManagement(Management[StudentsRecord]):
    """What can be done to L2BT's products.

    Args:
        store: The products.
        sizes: The input sizes of this server.
        ensembles: Where a product's ensembles are made.
        runtime_of: ``runtime`` and ``precision`` of an input size's backbone right now.
        run_by: What runs the students.
        max_bytes: Memory for loaded students.
    """

    store: StudentsStore

    def __init__(
        self,
        store: StudentsStore,
        sizes: Sequence[ServedSize],
        ensembles: ProductEnsembles,
        runtime_of: Callable[[ServedSize], dict[str, str]],
        run_by: StudentsRuntime,
        max_bytes: int,
    ) -> None:
        super().__init__(store)
        self._sizes = sizes
        self._ensembles = ensembles
        self._runtime_of = runtime_of
        self._run_by = run_by
        self._max_bytes = max_bytes
        self._arrivals = Arrivals(store, TRAINING_FILES, max_bytes, "trainings")

    def operations(self) -> dict[str, Operation]:
        """What can be asked for, by `wire.ManageOperation`."""
        return super().operations() | {
            ManageOperation.THRESHOLD: self.change_thresholds,
            ManageOperation.PUBLISH: self.publish_part,
        }

    def check_servable(self, record: StudentsRecord) -> None:
        """Refuse students of another backbone or too large; make sure of their ensemble."""
        digest = record.backbone["onnx_sha256"]
        size = next((one for one in self._sizes if one.onnx_sha256 == digest), None)
        if size is None or not set(record.layers) <= set(size.layers):
            raise InspectionRefused(
                f"version {record.version} of product '{record.product}' was trained on blocks "
                f"{record.layers} of backbone {digest[:12]}, which this server does not run; "
                "export and assemble that backbone, or train the product again"
            )
        file = self.store.file(record.product, record.version, STUDENTS_FILE)
        needed = students_size_bytes(file, record.patch_grid, record.dim)
        check_fits(record.product, needed, self._max_bytes)
        self._ensembles.ensure(record.product, size.label, record.layers)

    def delete(self, asked: Asked) -> Done:
        """Delete a version, or the product as a whole with its ensembles."""
        product, _ = asked.pinned()
        try:
            return super().delete(asked)
        finally:
            self._remove_ensembles_of_nobody(product)

    def change_thresholds(self, asked: Asked) -> Done:
        """Other thresholds, by hand or by rates."""
        base, chosen = self.in_force(asked), asked.chosen(THRESHOLD_KEYS)
        return Done.made(change_student_thresholds(self.store, base, chosen, asked.operator))

    def _remove_ensembles_of_nobody(self, product: str) -> None:
        """Those of a product that is not there: deleted, or a killed publication's."""
        if product not in self.store.products():
            self._ensembles.remove(product, [size.label for size in self._sizes])

    def publish_part(self, asked: Asked) -> Done:
        """Part of a file of trained students; the last makes it a version."""

        def publish(arrived: ArrivingFiles) -> StudentsRecord:
            activate = asked.options.get("activate", True)
            require(is_flag(activate), "activate", "true or false", activate)
            arrived.require_whole()
            report = read_report(arrived.folder.path / _REPORT_FILE)
            size = size_of(report, self._sizes)

            def prepare() -> None:
                # Before the version: an ensemble without a version refuses, the other way round
                # a version in force could not be asked.
                self._remove_ensembles_of_nobody(arrived.product)  # they may be of other blocks
                self._ensembles.ensure(arrived.product, size.label, report.layers)

            return publish_students(
                arrived,
                report,
                size,
                self.store,
                self._runtime_of(size),
                asked.operator,
                run_by=self._run_by,
                activate=activate,
                prepare=prepare,
            )

        return self.arrive(self._arrivals, asked, publish)
