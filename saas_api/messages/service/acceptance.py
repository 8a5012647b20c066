"""Accepting messages, in one round trip, and showing them. PostgreSQL is the queue: an accepted row is due work."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock, queue, tenancy
from saas_api.core.access import Principal
from saas_api.core.db import constraint_of, execute_once
from saas_api.core.errors import NotFound, Unavailable
from saas_api.core.ids import new_id
from saas_api.messages import rules
from saas_api.messages.models import Message
from saas_api.usage.rules import Usage

SOURCE = "messages.send"
DRAIN = "messages.drain"
_NO_OPEN_PERIOD = "usage_events.billing_period_id"
_INSERT = """
INSERT INTO messages (organization_id, id, api_key_id, mode, channel, recipient, subject, body, segments, cost,
  next_at, accepted_at, expires_at)
VALUES (%(org)s, %(id)s, %(api_key)s, %(mode)s, %(channel)s, %(to)s, %(subject)s, %(text)s, %(segments)s, %(cost)s,
  now(), %(at)s, now() + interval '24 h')
"""


class NoSuchMessage(NotFound):
    """There is no such message, or another organization or mode has it."""


def units_of(body: Mapping[str, Any]) -> dict[str, int]:
    """What a message uses of its meter: segments of an SMS, one e-mail."""
    return {body["type"]: rules.segments(body["message"]) if body["type"] == "sms" else 1}


def accept(
    principal: Principal, prices: Mapping[str, Decimal], currency: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Take a message with its usage, both or neither; what was answered will be delivered or fail.

    prices: list price of one unit by meter, major units
    body: `to`, `message`, `type`, `subject`, already validated
    raises: Unavailable when no billing period can be opened
    """
    message_id, channel = new_id(), body["type"]
    units = units_of(body)[channel]
    cost = prices[channel] * units if principal.mode == "live" else Decimal(0)
    row = {
        "org": principal.organization_id,
        "id": message_id,
        "api_key": principal.id,
        "mode": principal.mode,
        "channel": channel,
        "to": body["to"],
        "subject": body["subject"],
        "text": body["message"],
        "segments": units,
        "cost": cost,
    }
    at = _write(principal, row, units)
    queue.wake(DRAIN)
    return {
        "message_id": message_id,
        "to": body["to"],
        "type": channel,
        "status": "queued",
        "segments": units,
        "cost": f"{cost.normalize():f}",
        "currency": currency,
        "usage_recorded": principal.mode == "live",
        "mode": principal.mode,
        "organization_id": principal.organization_id,
        "created_at": at,
    }


def get(session: Session, principal: Principal, message_id: UUID) -> Message:
    """A message; a key sees those of its own mode.

    raises: NoSuchMessage
    """
    message = session.get(Message, (principal.organization_id, message_id))
    if message is None or (principal.kind == "key" and message.mode != principal.mode):
        raise NoSuchMessage
    return message


def _write(principal: Principal, row: Mapping[str, Any], units: int) -> datetime:
    for is_late in (False, True):
        at = clock.now()
        try:
            execute_once(_batch(principal, {**row, "at": at}, units, is_late=is_late))
        except IntegrityError as error:
            violated = constraint_of(error)
            if violated == "messages_pkey":  # the first try had been committed when its connection broke
                return at
            if violated != _NO_OPEN_PERIOD:
                raise
            with tenancy.transaction(principal.organization_id) as session:
                billing.ensure_account(session, principal.organization_id)
                billing.ensure_period(session, principal.organization_id, at)
        else:
            return at
    raise Unavailable


def _batch(
    principal: Principal, row: Mapping[str, Any], units: int, *, is_late: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    bind, insert = tenancy.bind_statement(principal.organization_id), (_INSERT, row)
    if principal.mode != "live":
        return [bind, insert]
    event = Usage(
        id=new_id(),
        source=SOURCE,
        key=str(row["id"]),
        meter=row["channel"],
        quantity=units,
        at=row["at"],
        api_key_id=principal.id,
        message_id=row["id"],
    )
    lock, append = billing.record_statements(principal.organization_id, event, is_late=is_late)
    return [bind, lock, insert, append]
