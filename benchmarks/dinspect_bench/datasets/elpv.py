"""The demo's data: electroluminescence images of real solar cells (elpv).

2,624 pictures of single cells, 300x300 pixels, 8-bit grey, each with a defect probability (0, 1/3,
2/3 or 1) and the kind of its module (``mono`` or ``poly``).

Licence: images and labels are CC BY-NC-SA 4.0, so they may not be used commercially, and pictures
derived from them stay under that licence. They are read from the installed ``elpv-dataset``
package and never copied into this repository.

Source: Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15; Deitsch et
al. 2019 and 2021.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinspect_bench.errors import DatasetError

ELPV_PACKAGE = "elpv_dataset"
ELPV_REQUIREMENT = "elpv-dataset==1.0.0.post1"
ELPV_LICENCE = "CC BY-NC-SA 4.0"
ELPV_KINDS = ("mono", "poly")

FUNCTIONAL_PROBABILITY = 0.0
DEFECTIVE_PROBABILITY = 1.0


@dataclass(frozen=True)
class Cell:
    """One picture of one solar cell.

    Attributes:
        path: The picture's file.
        probability: Defect probability in [0, 1] as the annotators gave it.
        kind: ``mono`` or ``poly`` (crystalline).
    """

    path: Path
    probability: float
    kind: str

    @property
    def name(self) -> str:
        """Path within the data set, e.g. ``images/cell0001.png``."""
        return relative_name(self.path)


@dataclass(frozen=True)
class DemoSplit:
    """Which cells are enrolled and which are held out.

    Attributes:
        seed: Seed the cells were drawn with.
        kind: Kind of module all of them come from.
        enrolled: Functional cells that become the memory bank.
        functional: Functional cells held out, none of them enrolled.
        defective: Defective cells held out.
    """

    seed: int
    kind: str
    enrolled: tuple[Path, ...]
    functional: tuple[Path, ...]
    defective: tuple[Path, ...]

    @property
    def held_out(self) -> tuple[Path, ...]:
        """The functional cells held out, then the defective ones."""
        return self.functional + self.defective


def relative_name(path: Path) -> str:
    """A picture's path within the data set, the same on every machine."""
    return f"{path.parent.name}/{path.name}"


def load_elpv(data_dir: Path | None = None) -> list[Cell]:
    """Read the labels of all cells and check that every picture is there.

    Args:
        data_dir: Folder with ``labels.csv`` and ``images/``; None takes that of the installed
            package, which is located and not imported.

    Returns:
        All cells in the order of ``labels.csv``.

    Raises:
        DatasetError: If the package is not installed, a line cannot be read or a picture is
            missing.
    """
    folder = installed_elpv_dir() if data_dir is None else data_dir
    labels = folder / "labels.csv"
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {labels}: {error}; {_reinstall()}") from error
    cells = [
        _cell_from_line(line, labels, number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    _require_files(cells)
    return cells


def installed_elpv_dir() -> Path:
    """Data folder of the installed ``elpv-dataset`` package.

    Raises:
        DatasetError: If the package is not installed.
    """
    spec = importlib.util.find_spec(ELPV_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(
            f"the demo's images are not installed; install them with "
            f"'pip install {ELPV_REQUIREMENT}' ({ELPV_LICENCE}, not for commercial use)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def split_cells(
    cells: Iterable[Cell],
    kind: str = "mono",
    seed: int = 0,
    num_enrolled: int = 32,
    num_functional: int = 60,
    num_defective: int = 60,
) -> DemoSplit:
    """Draw the demo's cells: good ones to enrol, good and bad ones to hold out.

    Only cells the annotators were sure of take part: probability 0 is functional, 1 is defective.
    The draw depends on the seed and the names alone, never on the order of ``cells``.

    Args:
        cells: All cells.
        kind: Kind of module to draw from.
        seed: Seed of ``numpy.random.default_rng``.
        num_enrolled: Functional cells to enrol.
        num_functional: Functional cells to hold out.
        num_defective: Defective cells to hold out.

    Raises:
        DatasetError: If the data set holds fewer cells than asked for.
    """
    of_kind = sorted((cell for cell in cells if cell.kind == kind), key=lambda cell: cell.name)
    good = [cell.path for cell in of_kind if cell.probability == FUNCTIONAL_PROBABILITY]
    bad = [cell.path for cell in of_kind if cell.probability == DEFECTIVE_PROBABILITY]
    _require_enough(good, num_enrolled + num_functional, f"functional {kind}")
    _require_enough(bad, num_defective, f"defective {kind}")
    # One generator, good cells first: the order of the two draws is part of the split.
    generator = np.random.default_rng(seed)
    drawn_good = [good[index] for index in generator.permutation(len(good))]
    drawn_bad = [bad[index] for index in generator.permutation(len(bad))]
    return DemoSplit(
        seed=seed,
        kind=kind,
        enrolled=tuple(drawn_good[:num_enrolled]),
        functional=tuple(drawn_good[num_enrolled : num_enrolled + num_functional]),
        defective=tuple(drawn_bad[:num_defective]),
    )


def _cell_from_line(line: str, labels: Path, number: int) -> Cell:
    """Parse ``images/cell0001.png  1.0  mono``."""
    fields = line.split()
    try:
        name, probability_text, kind = fields
        probability = float(probability_text)
    except ValueError:
        raise DatasetError(
            f"{labels}, line {number}: {line.strip()!r} is not 'path probability kind'"
        ) from None
    if not 0.0 <= probability <= 1.0 or kind not in ELPV_KINDS:
        raise DatasetError(
            f"{labels}, line {number}: probability {probability_text} must lie in [0, 1] "
            f"and kind {kind!r} be one of {', '.join(ELPV_KINDS)}"
        )
    return Cell(labels.parent / name, probability, kind)


def _require_files(cells: Sequence[Cell]) -> None:
    missing = [cell for cell in cells if not cell.path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(cells)} pictures of the data set are missing, "
            f"the first is {missing[0].path}; {_reinstall()}"
        )


def _require_enough(found: Sequence[Path], wanted: int, what: str) -> None:
    if len(found) < wanted:
        raise DatasetError(
            f"the data set holds {len(found)} {what} cells, {wanted} are asked for; ask for fewer"
        )


def _reinstall() -> str:
    return f"reinstall it with 'pip install --force-reinstall --no-deps {ELPV_REQUIREMENT}'"
