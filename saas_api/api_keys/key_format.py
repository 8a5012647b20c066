"""The text of a key secret, and the networks that a key may be limited to. Pure."""

import ipaddress
import re
import secrets
import string
import zlib

INVALID_NETWORK = "Not an address or a network like 203.0.113.0/24; write IPv4 as IPv4, and no zone."
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH, _CHECKSUM_LENGTH = 40, 6
_PATTERN = re.compile(r"([a-z][a-z0-9]{1,11})_(live|test)_([0-9A-Za-z]{40})([0-9A-Za-z]{6})", re.ASCII)


def generate_key(prefix: str, mode: str) -> str:
    """Return a new secret of 238 random bits.

    prefix: 2 to 12 lower-case letters and digits
    mode: "live" or "test"
    """
    body = f"{prefix}_{mode}_" + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return body + _checksum(body)


def is_well_formed_key(text: str, prefix: str) -> bool:
    """Whether a text has the prefix, the length and the checksum of our secrets."""
    match = _PATTERN.fullmatch(text)
    return match is not None and match[1] == prefix and _checksum(text[:-_CHECKSUM_LENGTH]) == match[4]


def has_key_prefix(text: str) -> bool:
    """Whether a bearer credential is an API key rather than an access token."""
    return re.match(r"[a-z][a-z0-9]{1,11}_(live|test)_", text) is not None


def key_hint(text: str) -> str:
    """Return the stored part of a secret: prefix, mode and the first four characters."""
    return text[: text.rindex("_") + 5]


def parse_network(text: str) -> str:
    """Return an IPv4 or IPv6 network in CIDR notation.

    text: an address or a network
    raises: ValueError for other text, a zone, or an IPv4 address written as IPv6
    """
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError as cause:
        raise ValueError(INVALID_NETWORK) from cause
    if "%" in text or (network.version == 6 and network.network_address.ipv4_mapped):
        raise ValueError(INVALID_NETWORK)
    return str(network)


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, rest = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[rest] + digits
    return digits
