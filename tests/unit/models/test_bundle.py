"""A version's record: what it holds, and that nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from bundles import make_bank, make_draft, make_good_parts

from bundle import Bundle, Region, Scoring
from version_record import Change, read_record

BANK = make_bank()
DRAFT = make_draft(BANK, make_good_parts(BANK))
RECORD = json.loads(DRAFT.to_json())


def text(**changes):
    return json.dumps(RECORD | changes)


def nested(part, **changes):
    return text(**{part: RECORD[part] | changes})


def test_record_comes_back_as_it_was():
    full = replace(
        DRAFT,
        version=7,
        region=Region(["011", "010"], [10, 0, 50, 100], "c" * 64, 25),
        scoring=Scoring(3, "max_map", "ivf", 4, 2, 0.25, {"images": 2, "max_score_change": 0.01}),
        change=Change("imported", None, "ada", "2026-01-01T00:00:00+00:00", "nut@3"),
    )
    assert Bundle.from_json(full.to_json()) == full
    assert Bundle.from_json(full.to_json().encode()) == full


def test_record_is_json_a_person_can_read():
    lines = DRAFT.to_json().splitlines()
    assert f'  "threshold": {DRAFT.threshold},' in lines
    assert '    "image_score": "mean_top1p",' in lines


def test_region_reads_rows_from_the_top():
    region = Region(["110", "001"], None, "c" * 64, 0)
    assert region.mask.tolist() == [[True, True, False], [False, False, True]]
    assert np.array_equal(Region.everything((2, 3)).mask, np.ones((2, 3), bool))
    assert Region.everything((2, 3)).inspected == ["111", "111"]


def test_patch_grid_is_rows_and_columns():
    assert DRAFT.patch_grid == (2, 3)


@pytest.mark.parametrize("version", [None, 1, 3, "2", True])
def test_unknown_format_is_named_whatever_its_fields_are(version):
    foreign = {"format_version": version, "product": "screw", "something": "new"}
    with pytest.raises(ValueError, match=rf"format_version is {version!r}, this server reads 2"):
        Bundle.from_json(json.dumps(foreign))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("", "Expecting value"),
        (DRAFT.to_json()[:-20], "Expecting|Unterminated"),
        ("[]", r"Bundle is \[\], expected an object"),
        ('"screw"', "expected an object"),
        ("\x00", "Expecting value"),
        ("[" * 100_000, "nested too deep"),
        (json.dumps({key: RECORD[key] for key in RECORD if key != "dim"}), "lacks .*'dim'"),
        (text(colour="red"), "does not know .*'colour'"),
        (nested("scoring", colour="red"), "Scoring lacks or does not know .*'colour'"),
        (nested("region", inspected=["111"]), "not of the grid 2 x 3"),
        (nested("region", inspected=["111", "11"]), "not of the grid 2 x 3"),
        (text(grid=[3, 2]), "not of the grid 3 x 2"),
        (text(grid=[2, 3, 1]), "too many values"),
        (text(grid=[10**12, 3]), "not of the grid"),
        (text(scoring=None), "Scoring is None, expected an object"),
        (text(change=["enrolled"]), r"Change is \['enrolled'\], expected an object"),
    ],
)
def test_what_is_no_whole_record_is_refused(damaged, reason):
    with pytest.raises(ValueError, match=reason):
        Bundle.from_json(damaged)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="utf-8"):
        Bundle.from_json(b'{"product": "\xff"}')


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", ["threshold", "normal_below", "defect_threshold"])
def test_threshold_that_decides_nothing_is_refused(name, number):
    """Python's JSON reads them all; every comparison with NaN is false."""
    said = DRAFT.to_json().replace(f'"{name}": {getattr(DRAFT, name)}', f'"{name}": {number}')
    assert number in said
    with pytest.raises(ValueError, match=rf"{number} is no number"):
        Bundle.from_json(said)
    with pytest.raises(ValueError, match=f"{name} is .*, which decides nothing"):
        replace(DRAFT, **{name: float(number)})


def test_nan_is_refused_also_where_any_value_may_be():
    loss = nested("scoring", measured_loss={"max_score_change": float("nan")})
    with pytest.raises(ValueError, match="NaN is no number"):
        Bundle.from_json(loss)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (None, "threshold", "0.5"),
        (None, "threshold", None),
        (None, "threshold", 1),  # written by something else than this server
        (None, "version", 1.0),
        (None, "version", True),
        (None, "version", None),
        (None, "product", 5),
        (None, "grid", [2, 3.0]),
        (None, "grid", [True, 3]),
        (None, "grid", "23"),
        (None, "references", [{"name": 5, "sha256": "a"}]),
        (None, "references", ["0.png"]),
        (None, "references", {"name": "0.png"}),
        (None, "backbone", []),
        ("preprocessing", "masked", 1),
        ("preprocessing", "masked", None),
        ("preprocessing", "foreground_share", [0, 1]),
        ("preprocessing", "rotations_deg", [0, 45.0]),
        ("scoring", "num_neighbours", False),
        ("scoring", "measured_loss", [0.1]),
        ("region", "roi_px", [0, 0, 1.5, 2]),
        ("region", "inspected", [["1", "1", "1"], ["1", "1", "1"]]),
        ("calibration", "false_positive_rate", "5 %"),
        ("calibration", "reference_scores", 0.5),
        ("change", "from_version", "1"),
        ("change", "origin", None),
    ],
)
def test_value_of_another_type_is_refused_by_name(part, name, value):
    damaged = text(**{name: value}) if part is None else nested(part, **{name: value})
    with pytest.raises(ValueError, match=rf"\.{name} is .*, expected "):
        Bundle.from_json(damaged)


def test_complaint_stays_short_however_much_was_sent():
    with pytest.raises(ValueError, match="threshold is") as refused:
        Bundle.from_json(text(threshold=["x"] * 100_000))
    assert len(str(refused.value)) < 400


def test_none_is_taken_where_a_value_may_be_missing():
    change = read_record(
        Change,
        {"action": "enrolled", "from_version": None, "operator": "", "at": "", "origin": ""},
    )
    assert change == Change("enrolled", None, "", "")


def test_record_that_json_cannot_hold_is_not_written():
    broken = replace(DRAFT, scoring=replace(DRAFT.scoring, measured_loss={"x": float("nan")}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.to_json()
