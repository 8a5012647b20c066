"""The text of a key secret. Pure."""

import re

from saas_api.core import secret_format

_PATTERN = re.compile(rf"([a-z][a-z0-9]{{1,11}})_(live|test)_{secret_format.ENDING_PATTERN}", re.ASCII)


def generate_key(prefix: str, mode: str) -> str:
    """Return a new secret of 238 random bits.

    prefix: 2 to 12 lower-case letters and digits
    mode: "live" or "test"
    """
    return secret_format.generate(f"{prefix}_{mode}_")


def is_well_formed_key(text: str, prefix: str) -> bool:
    """Whether a text has the prefix, the length and the checksum of our secrets."""
    match = _PATTERN.fullmatch(text)
    return match is not None and match[1] == prefix and secret_format.has_valid_checksum(text)


def has_key_prefix(text: str) -> bool:
    """Whether a bearer credential is an API key rather than an access token."""
    return re.match(r"[a-z][a-z0-9]{1,11}_(live|test)_", text) is not None


def key_hint(text: str) -> str:
    """Return the stored part of a secret: prefix, mode and the first four characters."""
    return text[: text.rindex("_") + 5]
