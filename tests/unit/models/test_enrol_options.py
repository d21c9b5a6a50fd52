"""What the caller of an enrolment may choose, and what is refused with a reason."""

from __future__ import annotations

import json

import pytest

from enrol_options import EnrolOptions
from image_score import IMAGE_SCORES
from preprocessing import SETTINGS
from refusals import InspectionRefused
from thresholds import ThresholdChoice


def test_everything_that_may_be_said_is_taken():
    said = {
        "resolution": 672,
        "preprocessing": "informed",
        "rotated": True,
        "texture": True,
        "num_neighbours": 3,
        "image_score": "max_map",
        "search": "ivf",
        "coreset_fraction": 0.25,
        "false_positive_rate": 0.01,
        "undecided_rate": 0.1,
        "activate": False,
        "operator": "ada",
        "role": "good",
        "image_names": ["a.png", "b.png"],
        "session": "s",
        "num_staged": 4,
        "commit": False,
    }
    options = EnrolOptions.from_json(said)
    for key, value in said.items():
        assert getattr(options, key) == (tuple(value) if key == "image_names" else value)


@pytest.mark.parametrize("value", [{}, {"threshold": None}, {"image_names": None, "role": None}])
def test_absent_and_null_options_mean_the_default(value):
    assert EnrolOptions.from_json(value) == EnrolOptions()
    assert EnrolOptions().image_score_name == "mean_top1p"
    assert EnrolOptions().thresholds.rates == (0.05, 0.0)


@pytest.mark.parametrize(
    ("key", "names"), [("preprocessing", SETTINGS), ("image_score", IMAGE_SCORES)]
)
def test_every_setting_and_score_can_be_asked_for(key, names):
    for name in names:
        assert getattr(EnrolOptions.from_json({key: name}), key) == name


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "JSON object"),
        ("options", "JSON object"),
        ({"shots": 3}, r"unknown options \['shots'\]; known are"),
        ({"resolution": "448"}, "'resolution' is '448', expected a multiple of the 14 px patch"),
        ({"resolution": 450}, "a multiple of the 14 px patch"),
        ({"resolution": 0}, "a multiple of the 14 px patch"),
        ({"resolution": -14}, "a multiple of the 14 px patch"),
        ({"resolution": 448.0}, "a multiple of the 14 px patch"),
        ({"resolution": True}, "a multiple of the 14 px patch"),
        ({"resolution": 14 * 10**400}, "a multiple of the 14 px patch up to 14000"),
        ({"preprocessing": "guess"}, "preprocessing is 'guess', expected one of agnostic"),
        ({"preprocessing": ""}, "preprocessing is '', expected one of"),
        ({"preprocessing": []}, r"'preprocessing' is \[\], expected a setting's name"),
        ({"preprocessing": ["agnostic"]}, "expected a setting's name"),
        ({"preprocessing": {}}, "expected a setting's name"),
        ({"preprocessing": 0}, "expected a setting's name"),
        ({"preprocessing": False}, "expected a setting's name"),
        ({"rotated": 1}, "'rotated' is 1, expected true or false"),
        ({"rotated": True}, "goes with 'informed'"),
        ({"texture": "yes"}, "true or false"),
        ({"texture": True, "preprocessing": "mask_rotation"}, "a texture is never masked"),
        ({"num_neighbours": 0}, "an integer from 1 to 64"),
        ({"num_neighbours": 65}, "an integer from 1 to 64"),
        ({"num_neighbours": 1.0}, "an integer from 1 to 64"),
        ({"num_neighbours": True}, "an integer from 1 to 64"),
        ({"image_score": "mean"}, "one of mean_top1p, mean_top1p_foreground, max, max_map"),
        ({"image_score": ""}, "'image_score' is ''"),
        ({"image_score": ["max"]}, "'image_score' is"),
        ({"search": "hnsw"}, "one of exact, ivf"),
        ({"search": {}}, "one of exact, ivf"),
        ({"coreset_fraction": 0}, "a share above 0 and up to 1"),
        ({"coreset_fraction": 1.01}, "a share above 0 and up to 1"),
        ({"coreset_fraction": True}, "a share above 0 and up to 1"),
        ({"coreset_fraction": "0.1"}, "a share above 0 and up to 1"),
        ({"coreset_fraction": float("nan")}, "a share above 0 and up to 1"),
        ({"append": "yes"}, "true or false"),
        ({"activate": 0}, "true or false"),
        ({"commit": 1}, "true or false"),
        ({"role": "bad"}, "one of reference, good"),
        ({"role": ["good"]}, "one of reference, good"),
        ({"operator": 5}, "'operator' is 5, expected a short string"),
        ({"operator": "x" * 201}, "a short string"),
        ({"operator": "\ud800"}, "a short string"),
        ({"session": "x" * 201, "num_staged": 0}, "a short string"),
        ({"session": 5, "num_staged": 0}, "a short string"),
        ({"session": "x"}, "must say in 'num_staged' how many images it follows"),
        ({"num_staged": -1}, "'num_staged' is -1, expected 0 or more"),
        ({"num_staged": 1.0}, "0 or more"),
        ({"image_names": 5}, "a list of short strings"),
        ({"image_names": "a.png"}, "a list of short strings"),
        ({"image_names": {"a": "b"}}, "a list of short strings"),
        ({"image_names": ["a.png", 5]}, "a list of short strings"),
        ({"image_names": [None]}, "a list of short strings"),
        ({"image_names": ["x" * 201]}, "a list of short strings"),
        ({"image_names": ["\udfff"]}, "a list of short strings"),
    ],
)
def test_wrong_options_are_refused(said, reason):
    with pytest.raises(InspectionRefused, match=reason):
        EnrolOptions.from_json(said)


THRESHOLDS = [
    ({"false_positive_rate": 0}, "'false_positive_rate' is 0, expected a share between 0 and 1"),
    ({"false_positive_rate": 1}, "between 0 and 1"),
    ({"false_positive_rate": True}, "between 0 and 1"),
    ({"false_positive_rate": "5 %"}, "between 0 and 1"),
    ({"false_positive_rate": float("nan")}, "between 0 and 1"),
    ({"false_positive_rate": 10**400}, "between 0 and 1"),
    ({"undecided_rate": -0.1}, "a share from 0 to below 1"),
    ({"undecided_rate": 1}, "a share from 0 to below 1"),
    ({"undecided_rate": [0.1]}, "a share from 0 to below 1"),
    ({"undecided_rate": 0.95}, "together reach 1"),  # with the default of the other
    ({"false_positive_rate": 0.5, "undecided_rate": 0.5}, "together reach 1"),
    ({"threshold": -1}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": 2.01}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": "high"}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": True}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": float("inf")}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": 10**400}, r"a cosine distance in \[0, 2\]"),
    ({"threshold": 0.5, "normal_below": -0.1}, r"'normal_below' is -0.1, expected a cosine"),
    ({"threshold": 0.5, "normal_below": 0.6}, "normal_below is 0.6; it goes with a threshold"),
    ({"normal_below": 0.1}, "got None"),
    ({"threshold": 0.5, "false_positive_rate": 0.1}, "exclude each other"),
    ({"threshold": 0.5, "undecided_rate": 0.0}, "exclude each other"),
]


@pytest.mark.parametrize(("said", "reason"), THRESHOLDS)
def test_thresholds_that_decide_nothing_are_refused(said, reason):
    with pytest.raises(InspectionRefused, match=reason):
        EnrolOptions.from_json(said)


@pytest.mark.parametrize(
    "said",
    [
        {"threshold": 0},
        {"threshold": 2, "normal_below": 2},
        {"threshold": 0.5, "normal_below": 0},
        {"false_positive_rate": 1e-9, "undecided_rate": 0.99},
        {"false_positive_rate": 0.99},
    ],
)
def test_thresholds_at_the_edge_are_taken(said):
    EnrolOptions.from_json(said)


def test_rates_not_named_are_the_defaults():
    assert ThresholdChoice().rates == (0.05, 0.0)
    assert ThresholdChoice(false_positive_rate=0.2).rates == (0.2, 0.0)
    assert ThresholdChoice(undecided_rate=0.2).rates == (0.05, 0.2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resolution", 448),
        ("preprocessing", "agnostic"),
        ("rotated", False),
        ("texture", False),
        ("num_neighbours", 1),
        ("image_score", "max"),
        ("search", "exact"),
        ("coreset_fraction", 1),
    ],
)
def test_appended_version_keeps_the_bank_as_it_is(key, value):
    with pytest.raises(InspectionRefused, match=f"an appended version keeps {key} of the version"):
        EnrolOptions.from_json({"append": True, key: value})
    EnrolOptions.from_json({"append": False, key: value})


def test_appended_version_may_have_thresholds_of_its_own():
    assert EnrolOptions.from_json({"append": True, "threshold": 0.5}).threshold == 0.5
    assert EnrolOptions.from_json({"append": True, "undecided_rate": 0.5}).undecided_rate == 0.5


FIRST = {"threshold": 0.2, "operator": "ada", "rotated": False, "num_neighbours": 3}


def test_later_parts_may_repeat_the_options_or_leave_them_out():
    first = EnrolOptions.from_json(FIRST)
    EnrolOptions().check_repeats(first)
    EnrolOptions.from_json(FIRST).check_repeats(first)
    part = {"role": "good", "image_names": ["x"], "session": "s", "num_staged": 5, "commit": True}
    EnrolOptions.from_json(part).check_repeats(first)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"threshold": 0.3}, "'threshold' is 0.3, but the first part of the enrolment said 0.2"),
        ({"operator": "bob"}, "'operator' is 'bob', but the first part .* 'ada'"),
        ({"texture": False}, "'texture' is False, but the first part .* None"),
        ({"append": True}, "'append' is True"),
    ],
)
def test_later_parts_may_not_change_the_options(changed, reason):
    with pytest.raises(InspectionRefused, match=reason):
        EnrolOptions.from_json(changed).check_repeats(EnrolOptions.from_json(FIRST))


def test_options_of_any_kind_are_refused_and_never_a_fault():
    """Every key with every kind of JSON value."""
    values = json.loads(
        '[true, 0, -1, 1e999, NaN, 1.5, "", "x", "\\ud800", [], [[]], {}, {"a": 1}, 1'
        + "0" * 400
        + "]"
    )
    taken = 0
    for key in EnrolOptions.__dataclass_fields__:
        for value in values:
            try:
                EnrolOptions.from_json({key: value})
            except InspectionRefused:
                continue
            taken += 1
    assert 0 < taken < 40
