"""Which rows are on record already, computed by the very same backbone, search and students."""

from __future__ import annotations

from collections.abc import Sequence

from dinspect_bench.accuracy.measurement import Measurement
from dinspect_bench.accuracy.served_backbones import Serving
from dinspect_bench.accuracy.temporary_product import ProductMaker
from dinspect_bench.records import Record
from dinspect_client.wire import Method


def find_on_record(
    wanted: Sequence[Measurement], records: Sequence[Record], serving: Serving, maker: ProductMaker
) -> list[Record | None]:
    """The last record of each row, where there is any.

    Where the server's processor decides the precision of the search, the server is asked for it;
    not before there is a record that would fit, for to ask takes an enrolment of one image.

    Args:
        wanted: The rows.
        records: All there are, oldest first.
        serving: What the server computes with.
        maker: Asks the server.

    Raises:
        AccuracyError, InspectionError: If the server cannot be asked.
    """
    search = serving.search_precision
    found: list[Record | None] = []
    for one in wanted:
        fitting = one.fitting(records, serving)
        if fitting and one.protocol.method == Method.ANOMALY_DINO:
            search = search or maker.search_precision(one.category, one.protocol)
            fitting = [record for record in fitting if record.get("search_precision") == search]
        found.append(fitting[-1] if fitting else None)
    return found
