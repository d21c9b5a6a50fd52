"""A whole run: every category, method, number of shots and seed, each on record once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dinspect_bench.accuracy.measurement import Measurement, measure
from dinspect_bench.accuracy.on_record import find_on_record
from dinspect_bench.accuracy.protocol import Protocol
from dinspect_bench.accuracy.served_backbones import read_serving
from dinspect_bench.accuracy.temporary_product import ProductMaker
from dinspect_bench.accuracy.work_folder import work_folder
from dinspect_bench.accuracy.worst_images import PictureFolder
from dinspect_bench.datasets.category import Category, Dataset, chosen_names
from dinspect_bench.datasets.geometry import of_one_geometry, require_one_geometry
from dinspect_bench.datasets.masks import require_fitting_masks
from dinspect_bench.records import Record, RecordFile

if TYPE_CHECKING:
    from dinspect_client import InspectionClient


@dataclass(frozen=True)
class DataChoices:
    """What is said of a data set's categories, beyond its files.

    Attributes:
        one_geometry: Leave out images of another aspect ratio than the commonest, instead of
            refusing the category.
        textures: Categories that are surfaces without background, besides those known to be.
        rotated: Categories whose parts come in any orientation, besides those known to.
    """

    one_geometry: bool = False
    textures: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()


def prepare_categories(dataset: Dataset, choices: DataChoices) -> tuple[Category, ...]:
    """The categories as they are measured.

    Raises:
        DatasetError: If a category is named that is not there, one mixes camera geometries, or a
            mask cannot be read or is not of its image's size.
    """
    names = [category.name for category in dataset.categories]
    where = dataset.categories[0].folder.parent
    textures = chosen_names(names, choices.textures, where)
    rotated = chosen_names(names, choices.rotated, where)
    prepared = []
    for category in dataset.categories:
        chosen = of_one_geometry(category) if choices.one_geometry else category
        require_one_geometry(chosen)
        require_fitting_masks(chosen)
        prepared.append(
            replace(
                chosen,
                texture=category.texture or category.name in textures,
                rotated=category.rotated or category.name in rotated,
            )
        )
    return tuple(prepared)


def run_accuracy(
    client: InspectionClient,
    url: str,
    dataset: str,
    categories: Sequence[Category],
    protocols: Sequence[Protocol],
    output: Path,
    *,
    keep: bool = False,
) -> list[Record]:
    """Measure what is not on record yet.

    What a run needs is checked before anything is measured. A run that was killed goes on where it
    was, in the middle of a training too; two runs on one file wait for each other.

    Args:
        client: Connected to the server.
        url: ``host:port`` of its gRPC endpoint.
        dataset: Name of the data set.
        categories: As `prepare_categories` gives them.
        protocols: How each is measured.
        output: File of the records; pictures and what an interrupted run needs lie beside it.
        keep: Whether the products stay on the server.

    Returns:
        The records of all that is asked for, measured now or before.

    Raises:
        BenchmarkError, InspectionError, ServerError, ExportError, OSError: See
            `measurement.measure`; what was measured before stays on record.
    """
    wanted = [
        Measurement(dataset, category, protocol, digest)
        for category, digest in [(one, one.sha256()) for one in categories]
        for protocol in protocols
    ]
    for one in wanted:
        one.selected()
    records = RecordFile(output)
    pictures = PictureFolder(output.with_name(f"{output.stem}_pictures"), output.parent)
    client.server_version()  # an absent server is told as such
    with work_folder(output) as work:
        maker = ProductMaker(client, url, work.path, work.owner, keep)
        serving = read_serving(url)
        found = find_on_record(wanted, records.read(), serving, maker)
        for one, record in zip(wanted, found, strict=True):
            if record is not None:  # a kill may have come between the record and this
                maker.forget(one.key())
        with tqdm(total=found.count(None), desc="accuracy", unit="run", disable=None) as bar:
            for index, one in enumerate(wanted):
                if found[index] is None:
                    bar.set_postfix_str(f"{one.category.name}, {one.protocol}")
                    record = found[index] = measure(one, serving, maker, pictures)
                    records.append(record)
                    maker.forget(one.key())
                    bar.update()
    return [record for record in found if record is not None]
