"""Usage events as services send them, CloudEvents 1.0 or plain objects: strict reading."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from saas_api.core.errors import BadRequest, ValidationFailed
from saas_api.usage import meters, sources
from saas_api.usage.ledger import REVERSAL_SOURCE
from saas_api.usage.meter_file import MeterContent

MAX_TEXT_LENGTH = 255
"""Of id, source, type and subject, in characters."""
MAX_PROPERTIES_BYTES = 4_096
"""Of the properties of one event, as JSON."""
MAX_AHEAD = timedelta(minutes=5)
SPEC_VERSION = "1.0"
_INTEGERS = range(-(2**63), 2**64)
"""Those that orjson reads as integers; it reads others as floats."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class InvalidEvent(ValidationFailed):
    """An event is malformed: an attribute is missing or has another form, or its properties are nested or too large."""

    code, message = "INVALID_EVENT", "The event is malformed."


class UnknownMeter(ValidationFailed):
    """The `type` of an event, or the meter of a call, is no meter that takes usage; an archived one takes none."""

    code, message = "UNKNOWN_METER", "There is no such meter, or it is archived."


class InFuture(ValidationFailed):
    """The time of an event is more than five minutes ahead of the server's clock."""

    code, message = "IN_FUTURE", "The time of the event lies in the future."


class ReceivedEvent(NamedTuple):
    """A well-formed event.

    position: in its request, from 0
    quantity: in the meter's unit, above 0
    properties: as JSON, without the quantity
    dimensions: the properties that the meter declares as dimensions
    unique_value: what a meter with aggregation unique counts
    """

    position: int
    id: str
    source: str
    meter: MeterContent
    subject: str
    at: datetime
    quantity: Decimal
    properties: bytes
    dimensions: tuple[tuple[str, str], ...]
    unique_value: str | None


@dataclass(frozen=True)
class EventReader:
    """Reads the events of one request.

    meters: those that take usage, by code
    default_source: of events that name none
    is_cloud_event: the media type promises CloudEvents, which name their specversion
    now: time of events that name none
    """

    meters: Mapping[str, MeterContent]
    default_source: str
    is_cloud_event: bool
    now: datetime

    def read(self, index: int, event: Any) -> ReceivedEvent:
        """Read one event.

        event: JSON-ready
        raises: InvalidEvent, UnknownMeter, MissingProperty, InvalidQuantity, InFuture
        """
        if not isinstance(event, dict):
            raise InvalidEvent("An event is a JSON object.")
        if event.get("specversion", None if self.is_cloud_event else SPEC_VERSION) != SPEC_VERSION:
            raise InvalidEvent('specversion must be "1.0".', details={"attribute": "specversion"})
        event_id, source = _read_text(event, "id"), _read_text(event, "source", self.default_source)
        if source == REVERSAL_SOURCE or source in sources.endpoints:
            raise InvalidEvent(
                f"source must not be {source}, which this application uses.", details={"attribute": "source"}
            )
        code, subject = _read_text(event, "type"), _read_text(event, "subject")
        at, data = self._read_time(event.get("time")), _read_data(event)
        meter = self.meters.get(code)
        if meter is None:
            raise UnknownMeter(f"There is no meter {code}, or it is archived.", details={"meter": code})
        given = data.get("quantity")
        quantity, unique_value = meters.event_quantity(
            meter, None if given is None else meters.parse_number(given), data
        )
        properties = {name: value for name, value in data.items() if name != "quantity"}
        given_dimensions = ((name, data.get(name)) for name in meter.dimensions)
        dimensions = tuple((name, _dimension_text(value)) for name, value in given_dimensions if value is not None)
        encoded = _encode_properties(properties)
        return ReceivedEvent(index, event_id, source, meter, subject, at, quantity, encoded, dimensions, unique_value)

    def _read_time(self, value: Any) -> datetime:
        if value is None:
            return self.now
        at = _parse_time(value) if isinstance(value, str) else None
        if at is None:
            raise InvalidEvent(
                "time must be RFC 3339 with an offset, such as 2026-03-05T14:00:00Z.", details={"attribute": "time"}
            )
        if at > self.now + MAX_AHEAD:
            raise InFuture
        return at


def parse_body(raw: bytes) -> Any:
    """The JSON value in a body of events.

    It may have lone surrogates, infinities and NaN, which no strict reader takes: EventReader rejects the events that
    have them, and the others of the body count.
    raises: BadRequest for other text, and for more levels than Python's reader takes
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode(), parse_int=_parse_integer)
    except (ValueError, RecursionError) as cause:
        raise BadRequest("The body is not valid JSON.") from cause


def _parse_integer(text: str) -> int | float:
    """As orjson reads it, but infinite where orjson refuses it; of more than 4,300 digits Python makes no integer."""
    is_short = len(text) <= len(str(_INTEGERS[0]))
    return number if is_short and (number := int(text)) in _INTEGERS else float(text)


def read_id(event: Any) -> str | None:
    """The id of an event for a report of its problem; None if it has none that can be shown."""
    value = event.get("id") if isinstance(event, dict) else None
    return value if isinstance(value, str) and len(value) <= MAX_TEXT_LENGTH and not _has_surrogate(value) else None


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def is_valid_text(value: Any) -> bool:
    """Whether a value may be an id, a source, a subject or an external id: 1 to 255 printable characters."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_TEXT_LENGTH and value.isprintable()


def _read_text(event: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = event.get(name)
    value = default if value is None else value
    if not is_valid_text(value):
        raise InvalidEvent(
            f"{name} must be a text of 1 to {MAX_TEXT_LENGTH} printable characters.", details={"attribute": name}
        )
    return str(value)


def _parse_time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _read_data(event: Mapping[str, Any]) -> Mapping[str, Any]:
    data = event.get("data")
    if data is None and "data_base64" not in event:
        return {}
    if not isinstance(data, dict):
        raise InvalidEvent("data must be a JSON object.", details={"attribute": "data"})
    for value in data.values():
        if isinstance(value, dict | list):
            raise InvalidEvent(
                "The properties in data must be texts, numbers or booleans.", details={"attribute": "data"}
            )
    return data


def _encode_properties(properties: Mapping[str, Any]) -> bytes:
    if any(isinstance(value, float) and not math.isfinite(value) for value in properties.values()):
        raise InvalidEvent("data must not contain infinite numbers or NaN.", details={"attribute": "data"})
    try:
        encoded = orjson.dumps(properties)
    except orjson.JSONEncodeError as cause:
        raise InvalidEvent("data must not contain lone surrogates.", details={"attribute": "data"}) from cause
    if len(encoded) > MAX_PROPERTIES_BYTES:
        raise InvalidEvent(f"data must be at most {MAX_PROPERTIES_BYTES} bytes of JSON.", details={"attribute": "data"})
    # An escaped backslash may precede u0000 too, so the texts themselves decide.
    if b"\\u0000" in encoded and any("\0" in str(text) for pair in properties.items() for text in pair):
        raise InvalidEvent("data must not contain NUL characters.", details={"attribute": "data"})
    return encoded


def _dimension_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
