"""Envelope, thin payload and Standard Webhooks signature of events. Pure."""

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
SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every signing secret
_SECRET_BYTES = 32
_THIN_FIELDS = ("object", "id", "message_id", "payment_id", "status")
_EXAMPLE_TIMESTAMP = datetime(2026, 3, 1, 12, tzinfo=UTC)
_EXAMPLE_IDS = {
    "event_id": "evt_018f3c6a9d2e7a018b4c5d6e7f809101",
    "organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
}


def build_payload(
    event_id: UUID,
    event_type: str,
    timestamp: datetime,
    organization_id: UUID,
    data: Mapping[str, Any],
    *,
    mode: str = "live",
) -> str:
    """Return the payload of an event as JSON. A payload over MAX_PAYLOAD_BYTES becomes a thin one.

    data: ready for JSON
    mode: "live" or "test"
    """
    envelope = _envelope(
        event_type, timestamp, mode, ids.format_id("evt", event_id), ids.format_id("org", organization_id)
    )
    text = _to_json(envelope, data)
    return text if len(text.encode()) <= MAX_PAYLOAD_BYTES else _to_json(envelope, thin_data(data))


def format_payload(text: str, payload_format: str) -> str:
    """Return a stored payload as an endpoint receives it.

    payload_format: "full" or "thin"
    """
    return build_thin_payload(text) if payload_format == "thin" else text


def build_thin_payload(text: str) -> str:
    """Return a stored payload with thin data."""
    envelope = orjson.loads(text)
    return _to_json(envelope, thin_data(envelope["data"]))


def thin_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name, the id and the status of the object in event data."""
    return {name: data[name] for name in _THIN_FIELDS if name in data}


def example_payload(event_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of an example, ready for JSON."""
    return {**_envelope(event_type, _EXAMPLE_TIMESTAMP, "live", **_EXAMPLE_IDS), "data": data}


def _envelope(event_type: str, timestamp: datetime, mode: str, event_id: str, organization_id: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": event_type,
        "timestamp": f"{timestamp:%Y-%m-%dT%H:%M:%S}.{timestamp.microsecond // 1000:03d}Z",
        "mode": mode,
        "organization_id": organization_id,
    }


def _to_json(envelope: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return orjson.dumps({**envelope, "data": data}).decode()


def generate_secret() -> str:
    """Return a new signing secret of 256 random bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature with one secret.

    webhook_id: of the event, such as "evt_..."; the same for retries and replays
    timestamp: of the attempt, in whole seconds of Unix time
    source: Standard Webhooks 1.0, the symmetric scheme `v1`
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def signature_headers(signing_secrets: Sequence[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of an attempt, with a signature for each active secret.

    signing_secrets: the newest first
    webhook_id, timestamp: as in `sign`
    """
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, webhook_id, timestamp, body) for secret in signing_secrets),
    }
