"""The operations that the clients call: parameters, request and answer of each."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Optional, Union
from urllib.parse import quote

from saas_api_client import events, models
from saas_api_client._exchange import Operation, Request

Quantity = Union[int, str, Decimal]

_UNCHANGED: Any = type("Unchanged", (), {"__repr__": lambda _: "unchanged"})()


def verify(  # noqa: PLR0913 - as many as the API has
    key: str,
    *,
    permission: Optional[str] = None,
    meter: Optional[str] = None,
    quantity: Optional[Quantity] = None,
    dimensions: Optional[Mapping[str, str]] = None,
    ip: Optional[str] = None,
    endpoint: Optional[str] = None,
    event_id: Optional[str] = None,
    hold_seconds: Optional[int] = None,
) -> Operation[models.Verification]:
    """Check a customer's API key, and with a meter record usage, in one call. Needs a service token.

    Whether the customer may go on is `valid` of the answer, and `code` says why not.

    permission: scope that the key must have, such as "lookups:write"
    meter, quantity: what to record when the key is valid; 1 unless said otherwise
    dimensions: properties of the usage that prices and reports distinguish
    ip: the customer's address; a key that is restricted to networks is refused without it
    endpoint: shown in usage by endpoint, such as "POST /v1/lookups"
    event_id: a repeat with the same one counts nothing; made by this client unless given
    hold_seconds: hold the quantity instead of recording it, 10 to 86,400; `settle` or `release` ends the hold
    """
    body = _body(
        key=key,
        permission=permission,
        meter=meter,
        quantity=_json_quantity(quantity),
        dimensions=dimensions,
        ip=ip,
        endpoint=endpoint,
        event_id=event_id or (_new_id() if meter else None),
        hold_seconds=hold_seconds,
    )
    return Operation(models.Verification, Request("POST", "/keys/verify", body=body), operation_id="verify_key")


def hold(
    *,
    meter: str,
    quantity: Quantity,
    key: Optional[str] = None,
    organization_id: Optional[str] = None,
    ip: Optional[str] = None,
    seconds: Optional[int] = None,
    event_id: Optional[str] = None,
) -> Operation[models.Hold]:
    """Reserve the most that a call may come to, before it is known. Needs a service token.

    key or organization_id: the customer
    ip: the customer's address; a key that is bound to networks needs it
    quantity: counts against quota, spend cap and balance until the hold ends
    seconds: until the hold expires, 10 to 86,400; 900 unless given
    raises: PaymentRequiredError, PermissionDeniedError, RateLimitError when the customer may not use that much
    """
    body = _body(
        key=key,
        organization_id=organization_id,
        ip=ip,
        meter=meter,
        quantity=_json_quantity(quantity),
        seconds=seconds,
        event_id=event_id or _new_id(),
    )
    return Operation(models.Hold, Request("POST", "/holds", body=body), operation_id="create_hold")


def get_hold(hold_id: str) -> Operation[models.Hold]:
    """Return a hold. Needs a service token."""
    return Operation(models.Hold, Request("GET", f"/holds/{_quoted(hold_id)}"), operation_id="get_hold")


def settle(
    hold_id: str,
    quantity: Quantity,
    *,
    dimensions: Optional[Mapping[str, str]] = None,
    properties: Optional[Mapping[str, Any]] = None,
) -> Operation[models.Hold]:
    """End a hold and record what was really used, which may be more than was held. Needs a service token.

    raises: ConflictError with code HOLD_ENDED when another request ended the hold, or its time did
    """
    body = _body(quantity=_json_quantity(quantity), dimensions=dimensions, properties=properties)
    request = Request("POST", f"/holds/{_quoted(hold_id)}/settle", body=body)
    return Operation(models.Hold, request, operation_id="settle_hold")


def release(hold_id: str) -> Operation[models.Hold]:
    """End a hold and record nothing. Needs a service token.

    raises: ConflictError with code HOLD_ENDED when another request ended the hold, or its time did
    """
    request = Request("POST", f"/holds/{_quoted(hold_id)}/release", body={})
    return Operation(models.Hold, request, operation_id="release_hold")


def record(*usage: events.Event) -> Operation[models.RecordedEvents]:
    """Record usage after the fact, at most 1,000 events and 1 MiB. Needs a service token.

    What the platform answers is on disk. An event that it rejects is in `errors` of the answer; the others count.
    """
    return record_batch([events.encode(event) for event in usage])


def record_batch(encoded_events: Sequence[bytes]) -> Operation[models.RecordedEvents]:
    """Record events that are JSON already."""
    request = Request(
        "POST",
        "/events",
        content=b"[" + b",".join(encoded_events) + b"]",
        headers={"Content-Type": "application/cloudevents-batch+json"},
    )
    return Operation(models.RecordedEvents, request, operation_id="record_events")


def reverse(
    event_id: str, *, source: Optional[str] = None, subject: Optional[str] = None
) -> Operation[models.Reversal]:
    """Take recorded usage back, once. Needs a service token.

    event_id: `uev_...` of an answer, or the id that your service gave the event
    source: of the event; the name of the service unless given
    subject: the customer, needed only where events of several customers have the id
    raises: ConflictError when it was reversed before
    """
    request = Request(
        "POST",
        f"/events/{_quoted(event_id)}/reverse",
        body=_body(source=source, subject=subject),
        headers=_idempotency(None),
    )
    return Operation(models.Reversal, request, operation_id="reverse_event")


def set_external_id(organization_id: str, external_id: Optional[str]) -> Operation[models.OrganizationEnvelope]:
    """Name a customer as your own system does, so that events may use the name as their subject. Needs a service token.

    external_id: None removes the name
    """
    request = Request(
        "PUT", f"/organizations/{_quoted(organization_id)}/external-id", body={"external_id": external_id}
    )
    return Operation(models.OrganizationEnvelope, request, operation_id="set_external_id")


def create_key(
    name: str,
    *,
    mode: Optional[str] = None,
    scopes: Optional[Sequence[str]] = None,
    expires_at: Optional[datetime] = None,
    allowed_ips: Optional[Sequence[str]] = None,
    rate_limit_per_minute: Optional[int] = None,
    idempotency_key: Optional[str] = None,
) -> Operation[models.CreatedApiKey]:
    """Create an API key; its secret is in this answer only. Needs an access token.

    mode: "live" (unless given) or "test"
    """
    body = _body(
        name=name,
        mode=mode,
        scopes=scopes,
        expires_at=_json_time(expires_at),
        allowed_ips=allowed_ips,
        rate_limit_per_minute=rate_limit_per_minute,
    )
    request = Request("POST", "/keys", body=body, headers=_idempotency(idempotency_key))
    return Operation(models.CreatedApiKey, request, operation_id="create_key")


def list_keys(
    *,
    mode: Optional[str] = None,
    status: Optional[str] = None,
    limit: Optional[int] = None,
    cursor: Optional[str] = None,
) -> Operation[models.ApiKeyPage]:
    """Return a page of API keys, newest first. Needs an access token.

    status: "active", "expired" or "revoked"
    limit: 1 to 100; 20 unless given
    cursor: `pagination.next_cursor` of the page before
    """
    request = Request("GET", "/keys", query=_query(mode=mode, status=status, limit=limit, cursor=cursor))
    return Operation(models.ApiKeyPage, request, operation_id="list_keys")


def get_key(key_id: str) -> Operation[models.ApiKey]:
    """Return an API key. Needs an access token."""
    return Operation(models.ApiKey, Request("GET", f"/keys/{_quoted(key_id)}"), operation_id="get_key")


def update_key(
    key_id: str,
    *,
    name: str = _UNCHANGED,
    scopes: Sequence[str] = _UNCHANGED,
    expires_at: Optional[datetime] = _UNCHANGED,
    allowed_ips: Sequence[str] = _UNCHANGED,
    rate_limit_per_minute: Optional[int] = _UNCHANGED,
) -> Operation[models.ApiKey]:
    """Change what is given of an API key; None removes an expiry or a limit. Needs an access token."""
    changes = {
        "name": name,
        "scopes": scopes,
        "expires_at": expires_at if expires_at is _UNCHANGED else _json_time(expires_at),
        "allowed_ips": allowed_ips,
        "rate_limit_per_minute": rate_limit_per_minute,
    }
    body = {field: value for field, value in changes.items() if value is not _UNCHANGED}
    return Operation(models.ApiKey, Request("PATCH", f"/keys/{_quoted(key_id)}", body=body), operation_id="update_key")


def rotate_key(
    key_id: str, *, grace_seconds: Optional[int] = None, idempotency_key: Optional[str] = None
) -> Operation[models.RotatedApiKey]:
    """Replace the secret of an API key; the new one is in this answer only. Needs an access token.

    grace_seconds: how long the old secret works too, at most 604,800; 0 unless given
    """
    request = Request(
        "POST",
        f"/keys/{_quoted(key_id)}/rotate",
        body=_body(grace_seconds=grace_seconds),
        headers=_idempotency(idempotency_key),
    )
    return Operation(models.RotatedApiKey, request, operation_id="rotate_key")


def revoke_key(key_id: str) -> Operation[models.ApiKey]:
    """Revoke an API key; its next request is refused. Needs an access token."""
    return Operation(models.ApiKey, Request("DELETE", f"/keys/{_quoted(key_id)}"), operation_id="revoke_key")


def send_message(
    *,
    type: str,  # noqa: A002 - the API's name
    to: str,
    message: str,
    subject: Optional[str] = None,
    smart_encoding: Optional[bool] = None,
    idempotency_key: Optional[str] = None,
) -> Operation[models.AcceptedMessage]:
    """Accept a message for sending. Needs an API key with `messages:write`.

    type: "sms" or "email"
    to: +2348012345678, or an address
    idempotency_key: a repeat with the same one sends nothing; made by this client unless given
    """
    body = _body(type=type, to=to, message=message, subject=subject, smart_encoding=smart_encoding)
    request = Request("POST", "/messages/send", body=body, headers=_idempotency(idempotency_key))
    return Operation(models.AcceptedMessage, request, operation_id="send_message")


def get_message(message_id: str) -> Operation[models.Message]:
    """Return a message. Needs an API key with `messages:read`, or an access token."""
    return Operation(models.Message, Request("GET", f"/messages/{_quoted(message_id)}"), operation_id="get_message")


def list_messages(
    *,
    status: Optional[str] = None,
    type: Optional[str] = None,  # noqa: A002 - the API's name
    to: Optional[str] = None,
    start_date: Optional[date] = None,
    end_date: Optional[date] = None,
    limit: Optional[int] = None,
    cursor: Optional[str] = None,
) -> Operation[models.MessagePage]:
    """Return a page of messages, newest first. Needs an API key with `messages:read`, or an access token.

    limit: 1 to 100; 20 unless given
    cursor: `pagination.next_cursor` of the page before
    """
    query = _query(
        status=status, type=type, to=to, start_date=start_date, end_date=end_date, limit=limit, cursor=cursor
    )
    return Operation(models.MessagePage, Request("GET", "/messages", query=query), operation_id="list_messages")


def cancel_message(message_id: str) -> Operation[models.Message]:
    """Cancel a message that is still queued. Needs an API key with `messages:write`, or an access token.

    raises: ConflictError with code NOT_CANCELABLE
    """
    request = Request("POST", f"/messages/{_quoted(message_id)}/cancel", headers=_idempotency(None))
    return Operation(models.Message, request, operation_id="cancel_message")


def get_usage(
    *, start_date: Optional[date] = None, end_date: Optional[date] = None, mode: Optional[str] = None
) -> Operation[models.Usage]:
    """Return usage and its cost by meter, endpoint, key and day.

    Needs an API key with `usage:read`, or an access token.

    start_date, end_date: both inclusive; the running billing period unless given
    """
    request = Request("GET", "/usage", query=_query(start_date=start_date, end_date=end_date, mode=mode))
    return Operation(models.Usage, request, operation_id="get_usage")


def get_usage_timeseries(
    *,
    start_date: date,
    end_date: date,
    interval: str = "day",
    meter: Optional[str] = None,
    group_by: Optional[str] = None,
    mode: Optional[str] = None,
) -> Operation[models.UsageTimeseries]:
    """Return usage by day or hour. Needs an API key with `usage:read`, or an access token.

    start_date, end_date: both inclusive; at most 744 intervals
    """
    query = _query(
        start_date=start_date, end_date=end_date, interval=interval, meter=meter, group_by=group_by, mode=mode
    )
    return Operation(
        models.UsageTimeseries, Request("GET", "/usage/timeseries", query=query), operation_id="get_usage_timeseries"
    )


def _body(**fields: Any) -> Mapping[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _query(**fields: Any) -> Mapping[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}


def _quoted(public_id: str) -> str:
    return quote(public_id, safe="")


def _new_id() -> str:
    return uuid.uuid4().hex


def _idempotency(key: Optional[str]) -> Mapping[str, str]:
    return {"Idempotency-Key": key or _new_id()}


def _json_time(at: Optional[datetime]) -> Optional[str]:
    return None if at is None else events.format_time(at)


def _json_quantity(quantity: Optional[Quantity]) -> Union[int, str, None]:
    return None if quantity is None else events.json_quantity(quantity)
