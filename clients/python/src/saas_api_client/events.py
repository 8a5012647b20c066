"""Usage events as the platform takes them: CloudEvents 1.0 in JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Optional, Union

from saas_api_client import errors


@dataclass(frozen=True)
class Event:
    """Usage of a customer.

    meter: code of the meter
    subject: the customer: `org_...`, `key_...` or the external id that you gave them
    quantity: 1 unless given; an integer, a Decimal or a decimal string, never a float
    properties: what the meter counts or prices distinguish, such as {"model": "small"}
    time: when it was used, aware; now unless given
    id: a repeat with the same one counts nothing; made here unless given
    source: the name of the service unless given
    """

    meter: str
    subject: str
    quantity: Union[int, str, Decimal, None] = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    source: Optional[str] = None


def encode(event: Event) -> bytes:
    """Return an event as JSON.

    raises: InvalidRequestError, TypeError, ValueError for what cannot be sent
    """
    data = dict(event.properties)
    if event.quantity is not None:
        data["quantity"] = json_quantity(event.quantity)
    cloud_event = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.meter,
        "subject": event.subject,
        "time": format_time(event.time),
        "data": data,
    }
    if event.source is not None:
        cloud_event["source"] = event.source
    text = json.dumps(cloud_event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as cause:
        raise errors.InvalidRequestError(str(cause)) from cause


def json_quantity(quantity: Union[int, str, Decimal]) -> Union[int, str]:
    """Return a quantity as the API takes it.

    raises: TypeError for a float, which could not be counted exactly
    """
    if isinstance(quantity, Decimal):
        return format(quantity, "f")
    if isinstance(quantity, bool) or not isinstance(quantity, (int, str)):
        raise TypeError(f"a quantity is an int, a Decimal or a decimal string, not {type(quantity).__name__}")
    return quantity


def format_time(at: datetime) -> str:
    """Return an aware time in RFC 3339.

    raises: ValueError for a naive one
    """
    if at.tzinfo is None:
        raise ValueError("a time needs a time zone: datetime.now(timezone.utc)")
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
