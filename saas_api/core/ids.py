"""UUIDv7, format_id, parse_id, NIL_UUID, the prefix registry."""

import re
import secrets
import time
import uuid

from saas_api.core import domain

_HEX = re.compile(r"[0-9a-f]{32}")


def new_id() -> uuid.UUID:
    """Make a time-ordered identifier.

    source: RFC 9562, UUIDv7: 48 bits of Unix milliseconds, then 74 random bits
    """
    value = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def format_id(prefix: str, value: uuid.UUID) -> str:
    """Write an identifier as clients see it.

    prefix: registered by a domain
    raises: ValueError for another one
    """
    if prefix not in domain.registry.id_prefixes:
        raise ValueError(f"unknown id prefix {prefix!r}")
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str) -> uuid.UUID:
    """Read an identifier from the wire, prefixed or as a bare UUID.

    raises: ValueError when it is neither, or carries another type's prefix
    """
    head, separator, digits = text.partition("_")
    if separator:
        if head != prefix or not _HEX.fullmatch(digits):
            raise ValueError(f"not a {prefix} id")
        return uuid.UUID(hex=digits)
    return uuid.UUID(text)
