"""Signing as Standard Webhooks asks for it: HMAC-SHA-256 over id, time and the very bytes that are sent."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """A fresh secret as its owner gets it: 256 random bits."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, webhook_id: str, at: int, body: bytes) -> str:
    """The signature of one secret.

    webhook_id: of the event, such as "evt_..."; the same over retries and replays
    at: Unix time of the attempt, whole seconds
    source: Standard Webhooks 1.0, the symmetric scheme `v1`
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{webhook_id}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers(secrets_of_endpoint: Sequence[str], webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt, signed with every secret that lives, the newest first."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(sign(secret, webhook_id, at, body) for secret in secrets_of_endpoint),
    }
