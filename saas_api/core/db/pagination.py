"""PageRequest, Page, cursor encoding, keyset paginate() used by every list."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from saas_api.core.errors import ValidationFailed


def decode_id(cursor: str) -> UUID:
    try:
        return UUID(hex=decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise invalid_cursor() from cause


def decode_sequence(cursor: str) -> int:
    try:
        sequence = int(decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise invalid_cursor() from cause
    if not 0 <= sequence < 1 << 63:
        raise invalid_cursor()
    return sequence


def decode_time_and_id(cursor: str) -> tuple[datetime, UUID]:
    values = decode_cursor(cursor)
    try:
        at, delivery_id = values
        return datetime.fromisoformat(at), UUID(hex=delivery_id)
    except ValueError as cause:
        raise invalid_cursor() from cause


def invalid_cursor() -> ValidationFailed:
    return ValidationFailed.at_field("cursor", "Not a cursor of this list.")


@dataclass(frozen=True)
class Page:
    """One page of a list, newest first."""

    items: Sequence[Any]
    next_cursor: str | None
    limit: int

    @property
    def pagination(self) -> dict[str, Any]:
        """How to go on."""
        return {
            "limit": self.limit,
            "has_more": self.next_cursor is not None,
            "next_cursor": self.next_cursor,
        }


def encode_cursor(*values: str) -> str:
    """An opaque position in a list."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode_cursor(text: str) -> list[str]:
    """The values of a position.

    raises: Invalid when it was not made by `encode_cursor`
    """
    try:
        values = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.")
    return values
