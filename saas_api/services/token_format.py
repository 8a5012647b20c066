"""The text of a service token. Pure."""

import re

from saas_api.core import secret_format

PREFIX = "svc_"
_PATTERN = re.compile(PREFIX + secret_format.ENDING_PATTERN, re.ASCII)


def generate_token() -> str:
    """Return a new token of 238 random bits."""
    return secret_format.generate(PREFIX)


def is_well_formed_token(text: str) -> bool:
    """Whether a text has the prefix, the length and the checksum of our tokens."""
    return _PATTERN.fullmatch(text) is not None and secret_format.has_valid_checksum(text)


def is_service_token(text: str) -> bool:
    """Whether a credential is meant as a service token rather than an access token or an API key with this prefix."""
    return re.match(r"svc_(?!(live|test)_)", text) is not None


def token_hint(text: str) -> str:
    """Return the stored part of a token: prefix and the first four characters."""
    return text[: len(PREFIX) + 4]
