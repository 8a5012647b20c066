"""Scopes that services declare: their form, and those that every service has. Pure."""

import re
from collections.abc import Collection, Sequence

SCOPE_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,39}:[a-z][a-z0-9_-]{0,39}", re.ASCII)


def scopes_of(name: str, declared: Collection[str]) -> Sequence[str]:
    """The scopes of a service: NAME:read, NAME:write, then the others that it declares, sorted, each once."""
    defaults = [f"{name}:read", f"{name}:write"]
    return [*defaults, *sorted(set(declared) - set(defaults))]
