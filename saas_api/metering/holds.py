"""Holds: usage that a service reserves before it knows the quantity, and that limits count like usage meanwhile.

Redis admits a hold; where a quota or cap concerns its meter, PostgreSQL then compares exactly under a lock. So parallel
holds never exceed a limit, whatever Redis has lost. A hold belongs to no billing period: its usage belongs to the
period in which it is settled.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, ParamSpec
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.core import clock, ids, money
from saas_api.core.access import KeyMode
from saas_api.core.db import cells, engine, group_commit, tenancy
from saas_api.core.db.prepared import Statement
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.faults import fault_point
from saas_api.core.ids import NIL_UUID
from saas_api.core.limits import counters
from saas_api.core.limits.limiter import LimitRequest
from saas_api.core.observability import get_logger
from saas_api.metering import events, key_principals, limits, recording
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.models import Hold, HoldStatus
from saas_api.metering.recording import UsageRecordedBefore
from saas_api.usage import ledger, meters
from saas_api.usage.ledger import MeteredUsage, UsageRecord
from saas_api.usage.meter_file import Aggregation, MeterContent
from saas_api.webhooks import events as webhook_events

log = get_logger(__name__)

_EXPIRY_BATCH_SIZE = 500

P = ParamSpec("P")


class HoldNotFound(NotFound):
    """The service has no hold with this id."""

    code, message = "HOLD_NOT_FOUND", "There is no such hold."


class HoldEnded(Conflict):
    """The hold was settled or released by another request, or has expired; `details.status` says which."""

    code, message = "HOLD_ENDED", "This hold has ended; send what was used beyond it as an event."


def held_usage(meter: MeterContent, quantity: Decimal, properties: Mapping[str, Any]) -> MeteredUsage:
    """What a hold counts against limits. Pure.

    quantity: the most that the call may come to, in the meter's unit; 1 for a meter that counts events or values
    raises: InvalidQuantity
    """
    if meter.aggregation in (Aggregation.COUNT, Aggregation.UNIQUE):
        return MeteredUsage(meter.code, Decimal(1), properties)
    return call_usage(meter, quantity, properties)[0]


def create_hold(
    principal: KeyPrincipal,
    service_name: str,
    usage: MeteredUsage,
    seconds: int,
    *,
    event_id: str | None = None,
    endpoint: str | None = None,
    call: LimitRequest | None,
) -> Hold:
    """Store a hold, in a transaction of its own: one round trip where neither a quota nor a cap concerns the meter.

    The hold of a test key counts against no limit.

    seconds: 10 to 86,400, until the hold expires
    event_id: idempotency key of its usage; None for one of its own
    endpoint: of the service's API, such as "POST /v1/lookups"
    call: that admitted the usage; without a hold it gives back what it has counted
    returns: the new hold; the one that the service has stored with this `event_id` before, open or ended
    raises: QuotaExceeded, SpendCapReached
    """
    now, hold_id = clock.now(), ids.new_id()
    hold = Hold(
        organization_id=principal.organization_id,
        id=hold_id,
        mode=principal.mode,
        source=service_name,
        idempotency_key=event_id or f"hold:{hold_id.hex}",
        meter_code=usage.meter,
        quantity=usage.quantity,
        properties=dict(usage.properties),
        endpoint=endpoint,
        api_key_id=principal.id if principal.kind == "key" else None,
        status=HoldStatus.OPEN,
        created_at=now,
        expires_at=now + timedelta(seconds=seconds),
    )
    is_limited = call is not None and any(counter.units for counter in call.counters)
    stored = None
    try:
        stored = _insert_within_limits(principal, usage, hold) if is_limited else _insert(hold)
    finally:
        if call is not None and (stored is None or stored.id != hold_id):
            counters.release_quota(call)
    fault_point("holds.after_create")
    return stored


def find_repeated_hold(organization_id: UUID, service_name: str, event_id: str | None) -> Hold | None:
    """The hold that a service has stored with an event id, in a transaction of its own; for calls that are refused."""
    if event_id is None:
        return None
    with tenancy.tenant_session(organization_id) as session:
        return _find_by_key(session, organization_id, service_name, event_id)


def _in_its_cell(function: Callable[P, Hold]) -> Callable[P, Hold]:
    """Call a function on a hold, whose organization is not known yet, in the cell that has it."""

    @functools.wraps(function)
    def search(*arguments: P.args, **values: P.kwargs) -> Hold:
        def call() -> Hold | None:
            with contextlib.suppress(HoldNotFound):
                return function(*arguments, **values)
            return None

        hold = cells.search(call)
        if hold is None:
            raise HoldNotFound
        return hold

    return search


@_in_its_cell
def get_hold(service_name: str, hold_id: UUID) -> Hold:
    """A hold of a service, in a transaction of its own.

    raises: HoldNotFound
    """
    with tenancy.system_session("metering.holds") as session:
        return _get(session, service_name, hold_id)


@_in_its_cell
def settle_hold(
    service_name: str, hold_id: UUID, quantity: Decimal, properties: Mapping[str, Any] | None = None
) -> Hold:
    """Record what was really used, at the present time, and end the hold, in a transaction of its own.

    It is recorded beyond the hold too, and whatever limits and the state of the organization say, because it was used.
    An event that the service has sent with the hold's `event_id` is that usage: it is not recorded again.

    quantity: in the meter's unit; 0 releases the hold
    properties: added to those of the hold
    returns: the hold; the same request again changes nothing
    raises: HoldNotFound; HoldEnded; InvalidQuantity, MissingProperty
    """
    properties = properties or {}
    request = _digest("settle", {"quantity": money.format_unit_price(quantity), "properties": properties})
    with tenancy.system_session("metering.holds") as session:
        hold = _get(session, service_name, hold_id, is_locked=True)
        if hold.ended_by == request:
            return hold
        _require_open(hold)
        used: Sequence[MeteredUsage] = ()
        if quantity:
            meter = meters.meter_content(meters.get_meter(session, hold.meter_code))
            used = _record_usage(session, hold, *call_usage(meter, quantity, {**hold.properties, **properties}))
        _end(hold, HoldStatus.SETTLED if quantity else HoldStatus.RELEASED, request)
    fault_point("holds.after_settle")
    _count_instead(hold, used)
    return hold


@_in_its_cell
def release_hold(service_name: str, hold_id: UUID) -> Hold:
    """End a hold without usage, in a transaction of its own.

    returns: the hold; the same request again changes nothing
    raises: HoldNotFound, HoldEnded
    """
    request = _digest("release", {})
    with tenancy.system_session("metering.holds") as session:
        hold = _get(session, service_name, hold_id, is_locked=True)
        if hold.ended_by == request:
            return hold
        _require_open(hold)
        _end(hold, HoldStatus.RELEASED, request)
    fault_point("holds.after_settle")
    _count_instead(hold, [])
    return hold


def expire_holds(now: datetime) -> int:
    """End the holds whose time is over, in transactions of its own; returns their number.

    A hold that is being settled stays with the request that settles it.
    """
    expired, is_behind = 0, True
    while is_behind:
        with tenancy.system_session("metering.holds") as session:
            ended = _expire_batch(session, now)
        fault_point("holds.after_expiry")
        for hold in ended:
            _count_instead(hold, [])
        expired += len(ended)
        is_behind = len(ended) == _EXPIRY_BATCH_SIZE
    return expired


def call_usage(
    meter: MeterContent, quantity: Decimal, properties: Mapping[str, Any]
) -> tuple[MeteredUsage, str | None]:
    """The usage of a call whose quantity is given beside its properties, and the value that a meter counts once. Pure.

    A meter that reads its quantity from a property finds it there too when the properties do not name it.
    raises: InvalidQuantity, MissingProperty
    """
    if meter.value_property is not None:
        properties = {meter.value_property: money.format_unit_price(quantity), **properties}
    counted, unique_value = meters.event_quantity(meter, quantity, properties)
    return MeteredUsage(meter.code, counted, properties), unique_value


_INSERT = """INSERT INTO holds (organization_id, id, mode, source, idempotency_key, meter_code, quantity, properties,
  endpoint, api_key_id, created_at, expires_at)
VALUES (%(hold_org)s, %(hold_id)s, %(hold_mode)s, %(hold_source)s, %(hold_key)s, %(hold_meter)s, %(hold_quantity)s,
  CAST(%(hold_properties)s AS jsonb), %(hold_endpoint)s, %(hold_api_key)s, %(hold_created_at)s, %(hold_expires_at)s)"""
_STORED_BEFORE = ("holds_pkey", "holds_id_key", "holds_organization_id_source_idempotency_key_key")


def _insert_statement(hold: Hold) -> Statement:
    return _INSERT, {
        "hold_org": hold.organization_id,
        "hold_id": hold.id,
        "hold_mode": hold.mode,
        "hold_source": hold.source,
        "hold_key": hold.idempotency_key,
        "hold_meter": hold.meter_code,
        "hold_quantity": hold.quantity,
        "hold_properties": json.dumps(hold.properties),
        "hold_endpoint": hold.endpoint,
        "hold_api_key": hold.api_key_id,
        "hold_created_at": hold.created_at,
        "hold_expires_at": hold.expires_at,
    }


def _insert(hold: Hold) -> Hold:
    """Insert a hold that no limit concerns; returns the stored one, which may be older."""
    try:
        group_commit.write(hold.organization_id, [_insert_statement(hold)])
    except IntegrityError as error:
        if engine.violated_constraint(error) not in _STORED_BEFORE:
            raise
        # repeated, or committed by the first try of the batch, whose answer was lost
        return find_repeated_hold(hold.organization_id, hold.source, hold.idempotency_key) or hold
    return hold


def _insert_within_limits(principal: KeyPrincipal, usage: MeteredUsage, hold: Hold) -> Hold:
    with tenancy.tenant_session(hold.organization_id) as session:
        recording.lock_limits(session, principal)
        stored = _find_by_key(session, hold.organization_id, hold.source, hold.idempotency_key)
        if stored is not None:
            return stored
        limits.require_room(principal, [usage])
        sql, values = _insert_statement(hold)
        if session.connection().exec_driver_sql(f"{sql} ON CONFLICT DO NOTHING RETURNING id", values).first():
            return hold
        return _find_by_key(session, hold.organization_id, hold.source, hold.idempotency_key) or hold


def _find_by_key(session: Session, organization_id: UUID, service_name: str, key: str) -> Hold | None:
    statement = select(Hold).where(Hold.organization_id == organization_id)
    return session.scalars(statement.where(Hold.source == service_name, Hold.idempotency_key == key)).first()


def _get(session: SystemSession, service_name: str, hold_id: UUID, *, is_locked: bool = False) -> Hold:
    statement = select(Hold).where(Hold.id == hold_id, Hold.source == service_name)
    hold = session.scalars(statement.with_for_update() if is_locked else statement).first()
    if hold is None:
        raise HoldNotFound
    return hold


def _digest(operation: str, body: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps([operation, body], sort_keys=True).encode()).digest()


def _require_open(hold: Hold) -> None:
    if hold.current_status != HoldStatus.OPEN:
        raise HoldEnded(details={"status": hold.current_status})


def _end(hold: Hold, status: HoldStatus, request: bytes | None) -> None:
    hold.status, hold.ended_at, hold.ended_by = status, clock.now(), request


def _record_usage(
    session: SystemSession, hold: Hold, usage: MeteredUsage, unique_value: str | None
) -> Sequence[MeteredUsage]:
    """Record the usage of a hold; returns what the counters do not have yet."""
    event = UsageRecord(
        id=ids.new_id(),
        source=hold.source,
        key=hold.idempotency_key,
        meter=usage.meter,
        quantity=usage.quantity,
        at=clock.now(),
        api_key_id=hold.api_key_id,
        properties=usage.properties,
        endpoint=hold.endpoint,
        unique_value=unique_value,
    )
    principal = KeyPrincipal("service", NIL_UUID, hold.organization_id, mode=hold.mode)
    try:
        recording.record_in_session(session, principal, None, event)
    except UsageRecordedBefore:  # as an event with the hold's id
        is_test = hold.mode == KeyMode.TEST
        before = ledger.find_event(session, hold.organization_id, event.source, event.key, is_test=is_test)
        if before is None:
            raise
        hold.usage_event_id, hold.settled_quantity = before.id, before.quantity
        return ()
    hold.usage_event_id, hold.settled_quantity = event.id, usage.quantity
    return (usage,)


def _expire_batch(session: SystemSession, now: datetime) -> Sequence[Hold]:
    due = select(Hold).where(Hold.status == HoldStatus.OPEN, Hold.expires_at <= now).order_by(Hold.expires_at)
    ended = session.scalars(due.limit(_EXPIRY_BATCH_SIZE).with_for_update(skip_locked=True)).all()
    for hold in ended:
        _end(hold, HoldStatus.EXPIRED, None)
    ended = sorted(ended, key=lambda hold: hold.organization_id)
    for organization_id, holds in groupby(ended, lambda hold: hold.organization_id):
        webhook_events.publish_many(session, organization_id, [events.expired_event(hold) for hold in holds])
    return ended


def _count_instead(hold: Hold, used: Sequence[MeteredUsage]) -> None:
    """Let the counters in Redis count usage instead of a hold that has ended; the reconciliation corrects a failure."""
    if hold.mode != KeyMode.LIVE:
        return
    held = MeteredUsage(hold.meter_code, hold.quantity, hold.properties)
    try:
        principal = key_principals.get_organization_principal(hold.organization_id)
        limits.adjust_counters(principal, [held], used)
    except Exception:
        log.exception("hold_uncounted", organization_id=str(hold.organization_id))
