"""Time and memory of the segmentation figures, for maps of the sizes that data sets have.

Run it where dinspect's bench extra is installed; the second size is that of a class of VisA::

    python benchmarks/metrics_speed.py --size 1024x1024 1000x1500

Maps are random, but like those the server sends: patch distances, bilinear at full size, smoothed.
They are written to a temporary folder first, 5 bytes a pixel, and read from there one by one, as
`bench-accuracy` does. What is timed is `measure_pixels`, reading included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from dinspect_bench.accuracy.pixel_metrics import measure_pixels
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.machine.resident_memory import PeakMemory
from dinspect_bench.records import RecordFile
from dinspect_client.commands.arguments import int_from_zero, positive_int

PATCH_SIZE_PX = 14
SIGMA_PX = 4.0
DEFECT_SIZES_PX = (24, 50_000)  # drawn evenly on a logarithmic scale
MAX_DEFECTS = 4  # in one image


class StoredArrays(Sequence[NDArray[Any]]):
    """Arrays in files, each loaded when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        return np.load(self._paths[index])


def random_mask(size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Ellipses, from tiny to large, which may overlap and be cut by the border."""
    mask = np.zeros(size, dtype=np.uint8)
    for _ in range(generator.integers(1, MAX_DEFECTS + 1)):
        area_px = np.exp(generator.uniform(*np.log(DEFECT_SIZES_PX)))
        flatness = generator.uniform(1, 4)
        axes = [
            max(1, round(np.sqrt(area_px / np.pi * factor))) for factor in (flatness, 1 / flatness)
        ]
        centre = [int(generator.integers(length)) for length in size[::-1]]
        cv2.ellipse(mask, centre, axes, generator.uniform(0, 180), 0, 360, (1,), thickness=-1)
    return mask > 0


def random_map(mask: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float32]:
    """Distances of patches, raised where the mask has a defect, as a smooth map of its size."""
    height, width = mask.shape
    grid = (width // PATCH_SIZE_PX, height // PATCH_SIZE_PX)
    raised = cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    distances = generator.gamma(4, 0.05, raised.shape) + generator.uniform(0, 0.4) * raised
    full = cv2.resize(distances.astype(np.float32), (width, height))
    return np.asarray(cv2.GaussianBlur(full, (0, 0), SIGMA_PX), dtype=np.float32)


def write_class(
    folder: Path, num_images: int, size: tuple[int, int], seed: int
) -> tuple[StoredArrays, StoredArrays]:
    """Maps and masks of a class, every other image good."""
    generator = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(num_images):
        mask = random_mask(size, generator) if index % 2 else np.zeros(size, dtype=bool)
        maps.append(folder / f"map{index}.npy")
        masks.append(folder / f"mask{index}.npy")
        np.save(maps[-1], random_map(mask, generator))
        np.save(masks[-1], mask)
    return StoredArrays(maps), StoredArrays(masks)


def measure(num_images: int, size: tuple[int, int], seed: int) -> dict[str, Any]:
    """One record: how long all figures of one class took, and the memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        maps, masks = write_class(Path(folder), num_images, size, seed)
        with PeakMemory([psutil.Process()]) as memory:
            started = time.monotonic()
            found = measure_pixels(maps, masks)
            measured_s = time.monotonic() - started
    return {
        "record": "metrics_speed",
        "num_images": num_images,
        "height_px": size[0],
        "width_px": size[1],
        "seed": seed,
        "measured_s": round(measured_s, 4),
        "before_mb": round(memory.before_bytes / 1e6),
        "peak_mb": round(memory.peak_bytes / 1e6),
        **found.to_record(),
        "environment": describe_environment(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def size_px(text: str) -> tuple[int, int]:
    """Height and width of ``HEIGHTxWIDTH``, each of a patch at least.

    Raises:
        ArgumentTypeError: If it is not that.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 1024x1024")
    size = int(height), int(width)
    if min(size) < PATCH_SIZE_PX:
        raise argparse.ArgumentTypeError(
            f"{text} is smaller than a patch of {PATCH_SIZE_PX} x {PATCH_SIZE_PX} pixels"
        )
    return size


def num_images(text: str) -> int:
    """A number of images, a good and a defective one at least.

    Raises:
        ArgumentTypeError: If it is not that.
    """
    number = positive_int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{text} is below 2: a good and a defective image")
    return number


def main() -> None:
    """Measure and print records, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--size", nargs="+", type=size_px, default=[(1024, 1024)], help="HEIGHTxWIDTH in pixels"
    )
    parser.add_argument("--images", type=num_images, default=200, help="every other one is good")
    parser.add_argument("--seed", type=int_from_zero, default=0)
    parser.add_argument("--output", type=Path, help="file of records to append to")
    args = parser.parse_args()
    for size in args.size:
        record = measure(args.images, size, args.seed)
        print(json.dumps(record))  # noqa: T201
        if args.output:
            RecordFile(args.output).append(record)


if __name__ == "__main__":
    main()
