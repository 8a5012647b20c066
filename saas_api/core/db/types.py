"""Column types of models, and arrays as parameters of SQL."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, Text, TypeDecorator


class EnumText(TypeDecorator[Any]):
    """A text column whose values are read as members of a `StrEnum`."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002 - SQLAlchemy passes it
        """Return the member; raises `ValueError` for a value that is none."""
        return None if value is None else self.enum(value)


def uuid_array(values: Sequence[UUID]) -> str:
    """Return the text of an array for `CAST(:name AS uuid[])`; the driver would write each UUID of a list by itself."""
    return "{" + ",".join([value.hex for value in values]) + "}"
