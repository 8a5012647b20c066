"""What an event looks like on its way: the envelope, whose text is what gets signed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from saas_api.core.ids import wire_id

LARGEST_BYTES = 65_536
_THIN = ("object", "id", "message_id", "payment_id", "status")


def payload(
    event_id: UUID, kind: str, at: datetime, organization_id: UUID, data: Mapping[str, Any], *, mode: str = "live"
) -> str:
    """The text of an event; data too large for it is cut to what names the object.

    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    text = _text(event_id, kind, at, organization_id, data, mode)
    return text if len(text.encode()) <= LARGEST_BYTES else _text(event_id, kind, at, organization_id, thin(data), mode)


def thin(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object's data an endpoint gets that asked for little."""
    return {name: data[name] for name in _THIN if name in data}


def _text(event_id: UUID, kind: str, at: datetime, organization_id: UUID, data: Mapping[str, Any], mode: str) -> str:
    envelope = {
        "id": wire_id("evt", event_id),
        "type": kind,
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        "mode": mode,
        "organization_id": wire_id("org", organization_id),
        "data": data,
    }
    return orjson.dumps(envelope).decode()
