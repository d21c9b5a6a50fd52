"""Whatever JSON a request carries, it is understood or refused, and never a fault."""

from __future__ import annotations

import pytest

from option_checks import (
    is_flag,
    is_integer,
    is_number,
    is_text,
    read_json,
    read_options,
    require,
)
from refusals import InspectionRefused


def test_json_is_read():
    assert read_json('{"a": [1, 2.5, null, "x"]}', "options are") == {"a": [1, 2.5, None, "x"]}


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "nonsense", '{"a": 1} {}', "1" * 5000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(InspectionRefused, match="options are no JSON: "):
        read_json(text, "options are")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_json_nested_too_deep_is_refused(text):
    with pytest.raises(InspectionRefused, match="the request is no JSON that can be read: nested"):
        read_json(text, "the request is")


def test_null_means_that_nothing_was_said():
    assert read_options({"a": None, "b": 0, "c": False}, {"a", "b", "c"}) == {"b": 0, "c": False}


@pytest.mark.parametrize("value", [None, [], "text", 5, True])
def test_options_are_an_object(value):
    with pytest.raises(InspectionRefused, match="must be a JSON object"):
        read_options(value, {"a"})


def test_unknown_options_are_named_with_the_known():
    with pytest.raises(InspectionRefused, match=r"unknown options \['c', 'd'\]; known are \['a'"):
        read_options({"d": 1, "a": 1, "c": None}, {"a", "b"})


def test_refusal_says_what_was_got_and_expected():
    require(True, "size", "a size", 5)
    with pytest.raises(InspectionRefused, match="^option 'size' is 'big', expected a size$"):
        require(False, "size", "a size", "big")


def test_refusal_stays_short_however_much_was_sent():
    with pytest.raises(InspectionRefused, match="expected a size") as refused:
        require(False, "size", "a size", ["x"] * 100_000)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (-1.5, True),
        (10**308, True),
        pytest.param(10**400, False, id="more than a float can hold"),
        (True, False),
        (float("nan"), False),
        (float("inf"), False),
        ("1", False),
        (None, False),
        ([1], False),
    ],
)
def test_number_is_finite_and_no_flag(value, expected):
    assert is_number(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, True),
        (4, True),
        pytest.param(10**400, True, id="huge"),
        (2, False),
        (3.0, False),
        (True, False),
        ("3", False),
    ],
)
def test_integer_is_at_least_the_lowest(value, expected):
    assert is_integer(value, 3) is expected


def test_flag_is_true_or_false_only():
    assert is_flag(True)
    assert is_flag(False)
    assert not any(is_flag(value) for value in (0, 1, "true", None))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", True),
        ("Zoë\n", True),
        ("x" * 200, True),
        ("x" * 201, False),
        ("a\ud800b", False),  # JSON can spell it, UTF-8 cannot: the answer could not be sent
        ("\udfff", False),
        ("\U0001f600", True),
        (5, False),
        (None, False),
        (["a"], False),
    ],
)
def test_text_is_short_and_can_be_sent_back(value, expected):
    assert is_text(value) is expected
