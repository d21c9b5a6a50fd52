"""Between the JSON of the server's reports and frozen dataclasses, held to their annotations.

A report may say more than a record knows: a newer server's additions are left out. It may not say
less, or something of another type.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dinspect_client.errors import ProtocolMismatch

RecordT = TypeVar("RecordT")

JSON_KEY = "json_key"
"""Metadata of a field that has another name in JSON."""

_MISSING = object()


class _Malformed(Exception):  # noqa: N818  never leaves this module
    """What is wrong with a value, said of its path in the report."""


def read_record(kind: type[RecordT], value: object, what: str) -> RecordT:
    """Make a record of what JSON held.

    Args:
        kind: A dataclass of strings, finite numbers, flags, tuples, mappings, and such dataclasses.
        value: What ``json.loads`` gave.
        what: What it is, for the message: ``product list``.

    Raises:
        ProtocolMismatch: If a field is missing or of another type; the message names it.
    """
    try:
        made: RecordT = _read(kind, value, "")
    except _Malformed as error:
        raise ProtocolMismatch(
            f"the server's {what} {error}; client and server versions differ"
        ) from None
    return made


def record_to_json(record: Any) -> Any:
    """Return what ``json.dumps`` takes for a record: objects, lists and plain values."""
    if is_dataclass(record):
        return {
            _key(field): record_to_json(getattr(record, field.name)) for field in fields(record)
        }
    if isinstance(record, tuple):
        return [record_to_json(item) for item in record]
    return dict(record) if isinstance(record, Mapping) else record


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get(JSON_KEY, field.name))


def _read(hint: Any, value: object, path: str) -> Any:
    if is_dataclass(hint):
        return _read_object(hint, value, path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:  # T | None, the only kind in use
        return None if value is None else _read(arguments[0], value, path)
    if origin is tuple:
        return _read_items(arguments, value, path)
    if origin is not None:  # Mapping[str, Any]
        return dict(_expected(value, dict, path))
    if hint is float:
        try:
            number = float(_expected(value, (int, float), path))
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise _Malformed(f"is malformed: {path} is {number}, expected a finite number")
        return number
    return _expected(value, hint, path)


def _read_object(kind: Any, value: object, path: str) -> Any:
    found = _expected(value, dict, path or "it")
    hints, made = _hints(kind), {}
    for field in fields(kind):
        inner = f"{path}.{_key(field)}" if path else _key(field)
        item = found.get(_key(field), _MISSING)
        if item is _MISSING:
            raise _Malformed(f"lacks {inner!r}")
        made[field.name] = _read(hints[field.name], item, inner)
    return kind(**made)


def _read_items(arguments: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    items = _expected(value, list, path)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if len(items) != len(arguments):
        raise _Malformed(f"is malformed: {path} has {len(items)} values, expected {len(arguments)}")
    return tuple(
        _read(argument, item, f"{path}[{i}]")
        for i, (argument, item) in enumerate(zip(arguments, items, strict=True))
    )


def _expected(value: object, kind: Any, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise _Malformed(f"is malformed: {path} is {shown}, expected {names}")
    return value


@lru_cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)
