"""Strict reading of JSON documents that people write: every problem at once, each with its path."""

import json
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

MAX_FILE_BYTES = 1_000_000
_DECIMAL = re.compile(r"([0-9]{1,14})(?:\.([0-9]{1,10}))?")


class InvalidDocument(ValueError):
    """A document that is not what it should be.

    problems: (path, reason) of each; the path of the whole document is ""
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in problems))
        self.problems = problems


def parse_json(text: str) -> Any:
    """Parse JSON; duplicate names and NaN are errors.

    raises: InvalidDocument
    """
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument([("", f"not JSON: {error}")]) from error


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    return dict(pairs)


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


class DocumentReader:
    """Collects problems; an invalid part is replaced by a default so that reading continues."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def report(self, path: str, reason: str) -> None:
        self.problems.append((path, reason))

    def finish(self) -> None:
        """End reading.

        raises: InvalidDocument with every problem
        """
        if self.problems:
            raise InvalidDocument(self.problems)

    def object(
        self, path: str, value: Any, required: tuple[str, ...], optional: tuple[str, ...] | None
    ) -> dict[str, Any]:
        """The fields of an object; `optional` is None where any name is allowed."""
        if not isinstance(value, dict):
            self.report(path, "must be an object")
            return {}
        for name in required:
            if name not in value:
                self.report(f"{path}.{name}".lstrip("."), "is missing")
        if optional is None:
            return value
        for name in value:
            if name not in (*required, *optional):
                self.report(f"{path}.{name}".lstrip("."), "is not known")
        return value

    def code(self, path: str, value: Any, pattern: re.Pattern[str], rule: str) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.report(path, f"must be a code: {rule}")
        return ""

    def text(self, path: str, value: Any, max_length: int) -> str:
        if isinstance(value, str) and value.isprintable() and value.strip() == value and 1 <= len(value) <= max_length:
            return value
        self.report(path, f"must be a text of 1 to {max_length} characters on one line")
        return ""

    def choice(self, path: str, value: Any, choices: Collection[str]) -> str | None:
        """One of the choices; None after a problem."""
        if isinstance(value, str) and value in choices:
            return value
        self.report(path, f"must be one of {', '.join(choices)}")
        return None

    def boolean(self, path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.report(path, "must be true or false")
        return value is True

    def integer(self, path: str, value: Any, minimum: int, maximum: int) -> int:
        if type(value) is int and minimum <= value <= maximum:
            return value
        self.report(path, f"must be a whole number from {minimum} to {maximum}")
        return minimum

    def decimal(self, path: str, value: Any, places: int = 10) -> Decimal:
        if not isinstance(value, str):
            self.report(path, 'must be a string like "0.005", no JSON number')
            return Decimal(0)
        match = _DECIMAL.fullmatch(value)
        integer_digits = 20 - places
        if match is None or not value.isascii() or len(match[1]) > integer_digits or len(match[2] or "") > places:
            self.report(path, f"must have at most {integer_digits} digits and {places} decimals, and no sign")
            return Decimal(0)
        return Decimal(value)

    def quantity(self, path: str, value: Any, *, is_positive: bool = False) -> Decimal:
        """A quantity in a meter's unit: a string, or a whole JSON number."""
        quantity = self.decimal(path, str(value) if type(value) is int else value, 6)
        if is_positive and not quantity and not [problem for problem in self.problems if problem[0] == path]:
            self.report(path, "must be above 0")
        return quantity
