"""The demo's L2BT product: students trained on the cells that AnomalyDINO enrols."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dinspect_bench.datasets.elpv import DemoSplit
from dinspect_bench.demo.result import Enrolled
from dinspect_bench.errors import DemoError

if TYPE_CHECKING:
    from dinspect_client import InspectionClient


def train_demo(
    client: InspectionClient, grpc_url: str, product: str, split: DemoSplit, build: Path
) -> tuple[Enrolled, dict[str, Any]]:
    """Train students on the enrolled cells and publish them on the running server.

    Args:
        client: Connected to the server.
        grpc_url: The same server as ``host:port``.
        product: What they are published as.
        split: The cells.
        build: Where the work goes on.

    Returns:
        The version that is in force now, and how it was trained.

    Raises:
        DemoError: If the version was not trained on all of the cells.
        ExportError, ServerError, InspectionError: From training and server.
    """
    from dinspect_export.training import TrainingOptions, fastest_precision
    from dinspect_server.student_training import TrainingPlan, train_product

    plan = TrainingPlan(
        product,
        split.enrolled,
        options=TrainingOptions(precision=fastest_precision()),
        work_dir=build / "training",
        operator="demo",
    )
    version = train_product(client, grpc_url, plan, _bar)
    if version.num_references != len(split.enrolled):
        raise DemoError(
            f"students were trained on {version.num_references} cells, expected "
            f"{len(split.enrolled)}"
        )
    trained = Enrolled(
        product=version.product,
        bundle_version=version.version,
        ensemble=version.ensemble,
        threshold=version.threshold,
        num_references=version.num_references,
        num_patches=version.num_patches,
    )
    return trained, dict(version.training)


@contextlib.contextmanager
def _bar(stage: str, num_steps: int) -> Iterator[Callable[[int], object]]:
    total, unit = (num_steps, "cell") if num_steps else (100, "%")
    with tqdm(total=total, desc=stage, unit=unit, leave=False, disable=None) as bar:
        yield lambda done: bar.update(done - bar.n)
