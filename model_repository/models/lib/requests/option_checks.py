"""Checks of the JSON objects that requests carry."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from refusals import InspectionRefused

_MAX_TEXT = 200


def read_json(text: str, what: str) -> object:
    """What a JSON text holds.

    Args:
        text: The text.
        what: What is not as it should be, with its verb: ``the request is``.

    Raises:
        InspectionRefused: If it is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise InspectionRefused(f"{what} no JSON: {error}") from None
    except RecursionError:
        raise InspectionRefused(f"{what} no JSON that can be read: nested too deep") from None


def read_options(value: object, known: set[str]) -> dict[str, Any]:
    """The keys of an object that are not null.

    Raises:
        InspectionRefused: If it is no object or holds an unknown key.
    """
    if not isinstance(value, dict):
        raise InspectionRefused("options must be a JSON object")
    unknown = set(value) - known
    if unknown:
        raise InspectionRefused(f"unknown options {sorted(unknown)}; known are {sorted(known)}")
    return {key: item for key, item in value.items() if item is not None}


def check_repeats(options: Any, first: Any, of_one_part: Collection[str], what: str) -> None:
    """Refuse a later part that asks for something else than the first did.

    Args:
        options: A dataclass of the later part's options; None where nothing was said.
        first: The same of the first part.
        of_one_part: Options that each part has for itself.
        what: What the parts make, for the message.

    Raises:
        InspectionRefused: Naming the option.
    """
    for field in fields(options):
        key, value = field.name, getattr(options, field.name)
        if key not in of_one_part and value is not None and value != getattr(first, key):
            raise InspectionRefused(
                f"option '{key}' is {value!r}, but the first part of the {what} said "
                f"{getattr(first, key)!r}; begin again with a new session"
            )


def require(condition: bool, key: str, expected: str, got: object) -> None:
    """Refuse an option that is not what it must be."""
    if not condition:
        said = repr(got)
        said = said if len(said) <= _MAX_TEXT else f"{said[:_MAX_TEXT]}..."
        raise InspectionRefused(f"option '{key}' is {said}, expected {expected}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number (JSON's true is none)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def is_integer(value: object, lowest: int) -> bool:
    """Whether a value is an integer of at least ``lowest``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def is_flag(value: object) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether a value is a string short enough to keep that UTF-8 can hold.

    JSON's escapes can make halves of characters that no text on the wire can hold.
    """
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)
