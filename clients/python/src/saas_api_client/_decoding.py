"""Turns JSON into the generated dataclasses."""

from __future__ import annotations

import dataclasses
import sys
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Callable, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_PARSERS: dict[Any, Callable[[Any], Any]] = {
    datetime: lambda text: datetime.fromisoformat(text.replace("Z", "+00:00")),
    date: date.fromisoformat,
    Decimal: Decimal,
}


def decode(kind: type[T], value: Any) -> T:
    """Return a JSON value as a dataclass.

    Properties that the dataclass does not have are left out, so that the platform may add some.

    raises: TypeError, ValueError when the value has another shape
    """
    decoded: T = _decode(kind, value)
    return decoded


def _decode(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if value is None or kind is Any:
        return value
    if origin is Union:
        return _decode(next(one for one in get_args(kind) if one is not type(None)), value)
    if origin is list:
        return [_decode(get_args(kind)[0], item) for item in value]
    if origin is dict:
        return {name: _decode(get_args(kind)[1], item) for name, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value)
    return _PARSERS[kind](value) if kind in _PARSERS else value


def _decode_object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{kind.__name__} is an object, not {type(value).__name__}")
    return kind(**{name: _decode(hint, value.get(name)) for name, hint in _hints(kind).items()})


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, vars(sys.modules[kind.__module__]))
