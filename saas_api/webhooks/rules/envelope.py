"""What an event looks like on its way: the envelope, whose text is what gets signed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from saas_api.core.ids import wire_id

LARGEST_BYTES = 65_536
_THIN = ("object", "id", "message_id", "payment_id", "status")
_NAMES = {"event_id": "evt_018f3c6a9d2e7a018b4c5d6e7f809101", "organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90"}


def payload(
    event_id: UUID, kind: str, at: datetime, organization_id: UUID, data: Mapping[str, Any], *, mode: str = "live"
) -> str:
    """The text of an event; data too large for it is cut to what names the object.

    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    envelope = _envelope(kind, at, mode, wire_id("evt", event_id), wire_id("org", organization_id))
    text = _text(envelope, data)
    return text if len(text.encode()) <= LARGEST_BYTES else _text(envelope, thin(data))


def thin(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object's data an endpoint gets that asked for little."""
    return {name: data[name] for name in _THIN if name in data}


def thin_payload(text: str) -> str:
    """The text of an event for an endpoint that asked for little."""
    envelope = orjson.loads(text)
    return _text(envelope, thin(envelope["data"]))


def example(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """An event of that type as the catalogue shows it."""
    return {**_envelope(kind, datetime(2026, 3, 1, 12, tzinfo=UTC), "live", **_NAMES), "data": data}


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
