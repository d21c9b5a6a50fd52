"""What a run measures: input sizes, batches, memory banks, and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dinspect_export.gpu import Gpu

STUDENT_VARIANT = "dinov2_vits14"
"""AnomalyDINO's default backbone; its packaged weights are the ones parity is shown with."""
TEACHER_VARIANT = "dinov2_vitb14"
"""L2BT's teacher; no weights of it are at hand, so they are random."""
INSPECTED_BANK = 8192
"""Patches of the bank that a whole inspection searches: 8 images at 448 x 448."""


@dataclass(frozen=True)
class Scope:
    """What is measured.

    Attributes:
        device: ``cuda`` or ``cpu``.
        quick: A small choice, to try the script out.
        sizes: Edges of ViT-S/14's square input in pixels.
        teacher_sizes: The same of ViT-B/14.
        batches: Images at once.
        banks: Patches of the memory banks that are searched.
        precisions: Of PyTorch: ``fp32``, ``fp16``.
        row_s: Seconds that the samples of one row may take.
        max_samples: Samples of one row at most.
        peak_sides: Edges of the square matrices whose products give the peak.
        copy_bytes: Size of the buffer that is copied for the copy rate.
    """

    device: str
    quick: bool
    sizes: tuple[int, ...]
    teacher_sizes: tuple[int, ...]
    batches: tuple[int, ...]
    banks: tuple[int, ...]
    precisions: tuple[str, ...]
    row_s: float
    max_samples: int
    peak_sides: tuple[int, ...]
    copy_bytes: int

    @property
    def inspected_bank(self) -> int:
        """Patches of the bank that a whole inspection searches."""
        return min(INSPECTED_BANK, max(self.banks))

    @property
    def backbones(self) -> tuple[tuple[str, int], ...]:
        """Each variant with each of its sizes."""
        return (
            *((STUDENT_VARIANT, size) for size in self.sizes),
            *((TEACHER_VARIANT, size) for size in self.teacher_sizes),
        )


def scope_of(device: str, *, quick: bool) -> Scope:
    """The scope of a device.

    Args:
        device: ``cuda`` or ``cpu``.
        quick: Whether to measure a small choice only.
    """
    on_gpu = device == "cuda"
    precisions = ("fp32", "fp16") if on_gpu else ("fp32",)
    if quick:
        return Scope(
            device,
            quick,
            sizes=(112,),
            teacher_sizes=(),
            batches=(1, 2),
            banks=(1024,),
            precisions=precisions,
            row_s=0.2,
            max_samples=5,
            peak_sides=(512,),
            copy_bytes=1 << 24,
        )
    return Scope(
        device,
        quick,
        sizes=(448, 672, 1036),
        teacher_sizes=(448, 1036),
        batches=(1, 8) if on_gpu else (1,),
        banks=(1024, 8192, 204_800),
        precisions=precisions,
        row_s=1.0 if on_gpu else 3.0,
        max_samples=200,
        peak_sides=(4096, 8192, 16_384) if on_gpu else (1024, 2048),
        copy_bytes=1 << 31 if on_gpu else 1 << 28,
    )


def page_name(scope: Scope, gpu: Gpu | None) -> str:
    """File name of the page: the GPU's, or one that says that there was none.

    >>> page_name(scope_of("cuda", quick=False), Gpu("NVIDIA H100 80GB HBM3", "9.0"))
    'nvidia_h100_80gb_hbm3.md'
    """
    name = "gpu_run_on_a_cpu" if gpu is None or scope.device == "cpu" else gpu.name.lower()
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_") + ".md"
