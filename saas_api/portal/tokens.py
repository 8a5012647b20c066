"""Tokens of portal links and of the cookies of their sessions; each names its organization, which has its row. Pure."""

import re
from uuid import UUID

from saas_api.core import secret_format

LINK_PREFIX, SESSION_PREFIX = "prl_", "prs_"
_PATTERN = re.compile(rf"(?:prl|prs)_([0-9a-f]{{32}})_{secret_format.ENDING_PATTERN}", re.ASCII)


def generate(prefix: str, organization_id: UUID) -> str:
    """Return a new token of 238 random bits."""
    return secret_format.generate(f"{prefix}{organization_id.hex}_")


def find_organization(prefix: str, token: str) -> UUID | None:
    """The organization that a token names; None for another text, a typing error included."""
    found = _PATTERN.fullmatch(token)
    if found is None or not token.startswith(prefix) or not secret_format.has_valid_checksum(token):
        return None
    return UUID(hex=found[1])
