"""Envelope, thin payload and Standard Webhooks signature; pure."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from saas_api.core import ids

MAX_PAYLOAD_BYTES = 65_536
_THIN_FIELDS = ("object", "id", "message_id", "payment_id", "status")
_EXAMPLE_IDS = {
    "event_id": "evt_018f3c6a9d2e7a018b4c5d6e7f809101",
    "organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
}


def build_payload(
    event_id: UUID, kind: str, at: datetime, organization_id: UUID, data: Mapping[str, Any], *, mode: str = "live"
) -> str:
    """The text of an event; data too large for it is cut to what names the object.

    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    envelope = _envelope(kind, at, mode, ids.format_id("evt", event_id), ids.format_id("org", organization_id))
    text = _text(envelope, data)
    return text if len(text.encode()) <= MAX_PAYLOAD_BYTES else _text(envelope, thin_data(data))


def thin_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object's data an endpoint gets that asked for little."""
    return {name: data[name] for name in _THIN_FIELDS if name in data}


def build_thin_payload(text: str) -> str:
    """The text of an event for an endpoint that asked for little."""
    envelope = orjson.loads(text)
    return _text(envelope, thin_data(envelope["data"]))


def example_payload(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """An event of that type as the catalogue shows it."""
    return {**_envelope(kind, datetime(2026, 3, 1, 12, tzinfo=UTC), "live", **_EXAMPLE_IDS), "data": data}


def _envelope(kind: str, at: datetime, mode: str, event_id: str, organization_id: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": kind,
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        "mode": mode,
        "organization_id": organization_id,
    }


def _text(envelope: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return orjson.dumps({**envelope, "data": data}).decode()


SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32


def generate_secret() -> str:
    """A fresh secret as its owner gets it: 256 random bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, webhook_id: str, at: int, body: bytes) -> str:
    """The signature of one secret.

    webhook_id: of the event, such as "evt_..."; the same over retries and replays
    at: Unix time of the attempt, whole seconds
    source: Standard Webhooks 1.0, the symmetric scheme `v1`
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{webhook_id}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signature_headers(secrets_of_endpoint: Sequence[str], webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt, signed with every secret that lives, the newest first."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(sign(secret, webhook_id, at, body) for secret in secrets_of_endpoint),
    }
