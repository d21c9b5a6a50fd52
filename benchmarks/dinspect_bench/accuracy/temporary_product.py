"""A category as a product of the server, for as long as it is measured.

Its name says whose it is and is the digest of what is measured, so that it is no plant's product,
and a run that was killed finds what it left: a product to remove, a training to go on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from dinspect_bench.accuracy.protocol import Protocol
from dinspect_bench.datasets.category import Category
from dinspect_bench.datasets.copies import copies_of, without_copies
from dinspect_bench.errors import AccuracyError
from dinspect_bench.progress import stage_bar
from dinspect_bench.records import Record
from dinspect_client.errors import InspectionError
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.versions import ProductVersion, VersionRecord

OPERATOR = "bench-accuracy"
"""Who enrols, as the server records it; the products' names begin with it, too."""
NUM_CALIBRATING = 8
"""Good images that only set thresholds, so that no students are trained for a cross-fit."""
SMALLEST_PREPROCESSING = "no_mask_no_rotation"
_ASKING_KEY: Record = {"asks": "search_precision"}


@dataclass(frozen=True)
class ProductMaker:
    """Makes products of categories on one server.

    Attributes:
        client: Connected to it.
        url: ``host:port`` of its gRPC endpoint.
        work_dir: Where a training keeps what it needs to go on after a kill, until `forget`.
        owner: Whose products they are: the same in a run that goes on, another in any other.
        keep: Whether products stay on the server.
    """

    client: InspectionClient
    url: str
    work_dir: Path
    owner: str
    keep: bool = False

    @contextlib.contextmanager
    def product(
        self, category: Category, references: Sequence[Path], protocol: Protocol, key: Record
    ) -> Iterator[VersionRecord]:
        """A product that learnt from some images, gone afterwards unless it is kept.

        Args:
            category: The category.
            references: Its images to learn from, each content once.
            protocol: How.
            key: All that identifies what is measured.

        Raises:
            AccuracyError: If somebody else has a product of that name.
            ExportError, ServerError, InspectionError: From training and server.
        """
        name = product_name(key, self.owner)
        self._remove_leftover(name, protocol.method)
        make = self._train if protocol.method == Method.L2BT else self._enroll
        version = make(name, category, references, protocol)
        try:
            yield version
        except BaseException:
            with contextlib.suppress(InspectionError):  # what went wrong is told, and not this
                self._delete(name, protocol.method)
            raise
        self._delete(name, protocol.method)

    def search_precision(self, category: Category, protocol: Protocol) -> str:
        """The precision that the server searches in, as a version made of one image says.

        Args:
            category: A category whose images the server can inspect.
            protocol: Of AnomalyDINO, for the resolution.

        Raises:
            AccuracyError, InspectionError: As `product` raises them.
        """
        small = replace(protocol, preprocessing=SMALLEST_PREPROCESSING)
        temporary = replace(self, keep=False)
        with temporary.product(category, category.good[:1], small, _ASKING_KEY) as version:
            return str(cast("ProductVersion", version).backbone.search_precision)

    def _enroll(
        self, name: str, category: Category, references: Sequence[Path], protocol: Protocol
    ) -> VersionRecord:
        with tqdm(
            total=len(references), desc="enrolling", unit="image", leave=False, disable=None
        ) as bar:
            return self.client.enroll(
                name,
                list(references),
                resolution=protocol.resolution,
                preprocessing=protocol.preprocessing,
                texture=category.texture and protocol.masks_by_test,
                rotated=category.rotated and protocol.rotates_if_known,
                operator=OPERATOR,
                on_progress=lambda done, _: bar.update(done - bar.n),
            )

    def _train(
        self, name: str, category: Category, references: Sequence[Path], protocol: Protocol
    ) -> VersionRecord:
        from dinspect_export.training import TrainingOptions, fastest_precision
        from dinspect_server.student_training import TrainingPlan, train_product

        plan = TrainingPlan(
            name,
            tuple(references),
            good_images=calibrating_images(category, references),
            resolution=protocol.resolution,
            options=TrainingOptions(epochs=protocol.epochs or 0, precision=fastest_precision()),
            work_dir=self.work_dir,
            keep=True,  # a kill during the inspection must not cost the training
            operator=OPERATOR,
        )
        return train_product(self.client, self.url, plan, stage_bar)

    def forget(self, key: Record) -> None:
        """Remove what a training left, once its row is on record.

        Args:
            key: All that identifies what was measured.
        """
        for folder in self.work_dir.glob(f"{product_name(key, self.owner)}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_leftover(self, name: str, method: str) -> None:
        """Delete what a killed run left, if it is ours.

        Raises:
            AccuracyError: If it is not.
        """
        there = [product.name for product in self.client.products() if product.method == method]
        if name not in there:
            return
        in_force = self.client.history(name, method=method).in_force
        maker = getattr(in_force, "created_by", "")
        if maker != OPERATOR:
            raise AccuracyError(
                f"the server at {self.url} has a product {name} that {maker or 'somebody'} made; "
                "rename or delete it, it is called like one of this benchmark"
            )
        self.client.delete(name, method=method, operator=OPERATOR)

    def _delete(self, name: str, method: str) -> None:
        if not self.keep:
            self.client.delete(name, method=method, operator=OPERATOR)


def product_name(key: Record, owner: str) -> str:
    """The product's name: the same for the same measurement of the same owner, and no other's."""
    return f"{OPERATOR}-{digest_of([owner, key])[:24]}"


def digest_of(value: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def calibrating_images(category: Category, references: Sequence[Path]) -> tuple[Path, ...]:
    """Good images besides the references, for the thresholds alone; none if there are no others.

    No figure here depends on a threshold.
    """
    taken = set(copies_of(references, category.good))
    others = without_copies(path for path in category.good if path not in taken)
    return others[:NUM_CALIBRATING]
