"""Values that production refuses: secrets that can be guessed or are used twice, and addresses without protection."""

import ipaddress
import itertools
from urllib.parse import urlsplit

MIN_DISTINCT_CHARACTERS = 8
EXAMPLE_WORDS = ("change-me", "changeme", "change_me", "example", "insecure", "password", "placeholder", "secret")
EXAMPLE_PASSWORDS = frozenset({"saas", "saas_app", "saas_owner", "postgres", "redis", "root", "admin", "test"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(block)
    for block in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "fc00::/7",
        "::1/128",
    )
)
"""Blocks that WEBHOOK_ALLOWED_NETWORKS may name. Clouds serve credentials at link-local addresses, so none is here."""


def split_secrets(value: str | None) -> set[str]:
    """The secrets in a setting such as "new,old" or "2:new,1:old"."""
    return {entry.rpartition(":")[2] for entry in (value or "").split(",")} - {""}


def secret_problem(secret: str) -> str | None:
    """Why a secret is no random text, for people; None when nothing speaks against it."""
    lowered = secret.lower()
    if any(word in lowered for word in EXAMPLE_WORDS):
        return "it is an example"
    steps = [ord(after) - ord(before) for before, after in itertools.pairwise(secret)]
    is_sequence = sum(abs(step) <= 1 for step in steps) > len(steps) / 2
    is_repeated = secret in (secret + secret)[1:-1]
    if len(set(secret)) < MIN_DISTINCT_CHARACTERS or is_repeated or is_sequence:
        return "it has too little variety"
    return None


def password_problem(url: str) -> str | None:
    """Why the password in an address of an engine is not accepted; None also where it has none."""
    parts = urlsplit(url)
    if parts.password is None:
        return None
    lowered = parts.password.lower()
    if lowered in EXAMPLE_PASSWORDS or parts.password == parts.username or any(w in lowered for w in EXAMPLE_WORDS):
        return "its password is an example"
    return None


def is_encrypted_or_local(url: str) -> bool:
    """Whether a public address is https, or http on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in LOCAL_HOSTS


def is_private_network(network: str) -> bool:
    """Whether a network lies in PRIVATE_NETWORKS."""
    parsed = ipaddress.ip_network(network)
    return any(
        parsed.subnet_of(block)  # type: ignore[arg-type]  # of the same version
        for block in PRIVATE_NETWORKS
        if block.version == parsed.version
    )
