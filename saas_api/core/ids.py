"""Identifiers: UUIDv7 in the database, with the prefix of their type in the API (`key_...`)."""

import re
import secrets
import time
import uuid

from saas_api.core import domain

NIL_UUID = uuid.UUID(int=0)
"""The nil UUID of RFC 9562; `new_id` never returns it."""
_HEX = re.compile(r"[0-9a-f]{32}")


def new_id() -> uuid.UUID:
    """Generate a time-ordered identifier: UUIDv7 (RFC 9562), 48 bits of Unix milliseconds, then 74 random bits."""
    return _to_uuid7(time.time_ns() // 1_000_000, secrets.randbits(80))


def new_ids(count: int) -> list[uuid.UUID]:
    """Generate many identifiers of the same millisecond, in ascending order, with one read of the random source."""
    milliseconds, random = time.time_ns() // 1_000_000, secrets.token_bytes(10 * count)
    values = [_to_uuid7(milliseconds, int.from_bytes(random[i : i + 10])) for i in range(0, 10 * count, 10)]
    return sorted(values, key=lambda value: value.int)


def _to_uuid7(milliseconds: int, random: int) -> uuid.UUID:
    value = milliseconds << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def format_id(prefix: str, value: uuid.UUID) -> str:
    """Format an identifier for clients.

    prefix: registered by a domain, such as "key"
    raises: ValueError when the prefix is not registered
    """
    if prefix not in domain.registry.id_prefixes:
        raise ValueError(f"unknown id prefix {prefix!r}")
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str) -> uuid.UUID:
    """Parse an identifier sent by a client, with its prefix or as a bare UUID.

    raises: ValueError when it is neither, or has the prefix of another type
    """
    text_prefix, separator, digits = text.partition("_")
    if separator:
        if text_prefix != prefix or not _HEX.fullmatch(digits):
            raise ValueError(f"not a {prefix} id")
        return uuid.UUID(hex=digits)
    return uuid.UUID(text)


def is_public_id(text: str, *prefixes: str) -> bool:
    """Whether a text is an identifier with one of some prefixes, as `format_id` writes it."""
    prefix, _, digits = text.partition("_")
    return prefix in prefixes and _HEX.fullmatch(digits) is not None
