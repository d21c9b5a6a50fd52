"""The least time each step of a request could take on a machine, and how near to it a run came.

A step can be no faster than its operations at the machine's peak rate, nor than its bytes at the
rate of a copy; the larger of the two is its floor (the roofline model: Williams, Waterman and
Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", 2009).

Two things make it a floor and no forecast. Only what cannot be avoided is counted, see `operations`
and `traffic`: decoding, copies between the steps, norms and softmax are not in it. And data that
lies in a cache moves faster than a copy through memory, so a step that moves few bytes and hardly
computes may come out below its floor; none of the steps that take the time is of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.operations import (
    Count,
    backbone_operations,
    foreground_operations,
    knn_operations,
    map_operations,
    resize_operations,
    students_operations,
)
from dinspect_bench.machine.traffic import (
    backbone_traffic,
    knn_traffic,
    map_traffic,
    preprocess_traffic,
    students_traffic,
)
from dinspect_export.variants import BackboneVariant

PREPROCESS, BACKBONE, KNN, STUDENTS, MAP = "preprocess", "backbone", "knn", "students", "map"
"""Steps of a request."""


@dataclass(frozen=True)
class Peak:
    """What a machine was seen to reach.

    Attributes:
        matrix_product_flops: Precision to operations per second; None where it was not measured.
        copy_bytes_per_s: Bytes read and written per second by a copy through memory.
    """

    matrix_product_flops: Mapping[str, float | None]
    copy_bytes_per_s: float

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> Peak:
        """The highest figures of one machine's records, for a busy minute only lowers them.

        Args:
            records: At least one of kind ``peak``, as `peak.measure_peak` makes them.
        """
        highest: dict[str, float | None] = {}
        for record in records:
            for precision, flops in record["matrix_product_flops"].items():
                highest[precision] = max(flops or 0.0, highest.get(precision) or 0.0) or None
        return cls(highest, max(record["copy_bytes_per_s"] for record in records))

    def flops(self, precision: str) -> float:
        """Operations per second in a precision.

        Raises:
            BenchmarkError: If the peak in it is not known.
        """
        found = self.matrix_product_flops.get(precision)
        if not found:
            known = [name for name, rate in self.matrix_product_flops.items() if rate]
            raise BenchmarkError(
                f"there is no measured peak in {precision}, only in {', '.join(known) or 'none'}; "
                "measure the peak on a machine and with a runtime that have it"
            )
        return found


@dataclass(frozen=True)
class StepWork:
    """What one step has to do for one image.

    Attributes:
        operations: As `operations` counts them.
        traffic: Bytes, as `traffic` counts them.
        precision: Whose peak counts.
    """

    operations: Count
    traffic: Count
    precision: str = "fp32"


@dataclass(frozen=True)
class Inspected:
    """What shapes one request, whichever method inspects it.

    Attributes:
        variant: The backbone.
        grid: Patch grid ``(rows, columns)`` of its input.
        layers: Blocks that its graph taps, counted from one.
        image_size: Height and width of the image in pixels.
        received_bytes: The image as it is sent.
        precision: Of the backbone: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        with_map: Whether the full-size anomaly map is asked for.
    """

    variant: BackboneVariant
    grid: tuple[int, int]
    layers: tuple[int, ...]
    image_size: tuple[int, int]
    received_bytes: int
    precision: str
    with_map: bool = True


@dataclass(frozen=True)
class StepFloor:
    """The least time of one step.

    Attributes:
        operations: Counted for one image.
        traffic_bytes: Counted for one image.
        precision: Whose peak rate counts.
        compute_ms: The operations at the peak rate.
        memory_ms: The bytes at the rate of a copy.
        measured_ms: Mean time it took; None if it was not measured.
    """

    operations: int
    traffic_bytes: int
    precision: str
    compute_ms: float
    memory_ms: float
    measured_ms: float | None = None

    @property
    def floor_ms(self) -> float:
        """The larger of the two."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound(self) -> str:
        """Which of the two it is: ``compute`` or ``memory``."""
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    @property
    def peak_share(self) -> float | None:
        """Floor over measured time; of a step bound by compute the share of the peak rate."""
        return None if not self.measured_ms else self.floor_ms / self.measured_ms

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "operations": self.operations,
            "traffic_bytes": self.traffic_bytes,
            "precision": self.precision,
            "floor_ms": self.floor_ms,
            "bound": self.bound,
            "measured_ms": self.measured_ms,
            "peak_share": self.peak_share,
        }


def anomaly_dino_work(
    image: Inspected, num_bank_patches: int, search_precision: str, *, masked: bool
) -> dict[str, StepWork]:
    """What AnomalyDINO has to do for one image.

    Args:
        image: The request.
        num_bank_patches: Rows of the memory bank that each patch is compared with.
        search_precision: Of the search.
        masked: Whether the background is masked.

    Returns:
        ``preprocess``, ``backbone``, ``knn``, and ``map`` if it is asked for.
    """
    dim = image.variant.dim
    search = knn_operations(dim, image.grid, num_bank_patches).parts
    # In FP64, whose peak is not measured and no higher: FP32's makes the floor too low, at worst.
    mask = foreground_operations(dim, image.grid).parts if masked else {}
    traffic = knn_traffic(dim, image.grid, num_bank_patches, search_precision)
    return {
        **_shared_work(image, image.image_size),
        KNN: StepWork(Count({**search, **mask}), traffic, search_precision),
        **_map_work(image),
    }


def l2bt_work(image: Inspected, students_precision: str = "fp32") -> dict[str, StepWork]:
    """What L2BT has to do for one image.

    Args:
        image: The request; it is padded to a square first.
        students_precision: Of the students.

    Returns:
        ``preprocess``, ``backbone``, ``students``, and ``map`` if it is asked for. The students'
        step draws the map too, for its score is the mean of the map's largest values.
    """
    square_px = max(image.image_size)
    students = students_operations(image.variant.dim, image.grid).parts
    drawn = map_operations(image.image_size, image.grid).total
    traffic = students_traffic(image.variant.dim, image.grid, students_precision)
    return {
        **_shared_work(image, (square_px, square_px)),
        STUDENTS: StepWork(Count({**students, "map": drawn}), traffic, students_precision),
        **_map_work(image),
    }


def floor_by_step(
    work: Mapping[str, StepWork], peak: Peak, measured_ms: Mapping[str, float] | None = None
) -> dict[str, StepFloor]:
    """The floor of each step, and the share of it that a run reached.

    Args:
        work: Step to what it has to do, as `anomaly_dino_work` or `l2bt_work` count it.
        peak: What the machine reaches.
        measured_ms: Step to its mean time per request without waiting; steps that are missing have
            a floor and no share. Others than those of ``work`` are left out.

    Returns:
        Step to its floor, in the order of ``work``.

    Raises:
        BenchmarkError: If the peak in a step's precision is not known.
    """
    times = measured_ms or {}
    return {
        name: step_floor(
            step.operations.total, step.traffic.total, step.precision, peak, times.get(name)
        )
        for name, step in work.items()
    }


def step_floor(
    operations: int, traffic_bytes: int, precision: str, peak: Peak, measured_ms: float | None
) -> StepFloor:
    """The floor of one step; see `StepFloor`.

    Raises:
        BenchmarkError: If the peak in the precision is not known.
    """
    return StepFloor(
        operations=operations,
        traffic_bytes=traffic_bytes,
        precision=precision,
        compute_ms=1e3 * operations / peak.flops(precision),
        memory_ms=1e3 * traffic_bytes / peak.copy_bytes_per_s,
        measured_ms=measured_ms,
    )


def _shared_work(image: Inspected, resized_from: tuple[int, int]) -> dict[str, StepWork]:
    edge = image.variant.patch_size
    input_size = (image.grid[0] * edge, image.grid[1] * edge)
    return {
        # The margin that is resized and then cropped, less than a patch, is left out.
        PREPROCESS: StepWork(
            resize_operations(resized_from, input_size),
            preprocess_traffic(image.received_bytes, input_size),
        ),
        BACKBONE: StepWork(
            backbone_operations(image.variant, image.grid, max(image.layers)),
            backbone_traffic(image.variant, image.grid, image.layers, image.precision),
            image.precision,
        ),
    }


def _map_work(image: Inspected) -> dict[str, StepWork]:
    if not image.with_map:
        return {}
    return {
        MAP: StepWork(
            map_operations(image.image_size, image.grid),
            map_traffic(image.image_size, image.grid),
        )
    }
