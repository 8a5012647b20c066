"""The random part and the checksum of secrets that clients keep, and how secrets look in other texts. Pure."""

import re
import secrets
import string
import zlib

RANDOM_LENGTH, CHECKSUM_LENGTH = 40, 6
ENDING_PATTERN = "[0-9A-Za-z]{46}"
"""Regular expression of what `generate` appends; compile it with re.ASCII."""
_SECRETS = re.compile(
    r"[a-z][a-z0-9]{1,11}_(?:live|test)_\w{8,}|svc_[0-9A-Za-z]{46}|pr[ls]_[0-9a-f]{32}_[0-9A-Za-z]{46}|whsec_\S+|eyJ[\w-]+\.[\w-]+\.[\w-]*"
)
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


def generate(prefix: str) -> str:
    """Return a new secret: a prefix, 40 random characters (238 bits), and a checksum of 6 characters."""
    body = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_LENGTH))
    return body + _checksum(body)


def has_valid_checksum(text: str) -> bool:
    """Whether a text ends with the checksum of what is before it."""
    return text[-CHECKSUM_LENGTH:] == _checksum(text[:-CHECKSUM_LENGTH])


def hide_secrets(text: str) -> str:
    """A text for logs and reports of errors, with [hidden] in place of what has the form of a key, token or secret."""
    return _SECRETS.sub("[hidden]", text)


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        value, rest = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[rest] + digits
    return digits
