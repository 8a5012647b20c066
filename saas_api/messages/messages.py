"""Accept, test messages, list, cancel, reverse usage."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.billing import periods, terms
from saas_api.billing.terms import ServiceTerms
from saas_api.core import clock, idempotency, ids
from saas_api.core.access import Principal
from saas_api.core.db import engine, pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, Forbidden, NotFound, ServiceUnavailable, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.idempotency import KEY_CONSTRAINT, AlreadyAnswered, IdempotentRequest
from saas_api.core.jobs import queue
from saas_api.messages import content
from saas_api.messages import events as message_events
from saas_api.messages.events import MessageEventData
from saas_api.messages.models import Message
from saas_api.usage.ledger import UsageRecord
from saas_api.webhooks import events as webhook_events


def list_messages(
    session: Session, organization_id: UUID, query: Mapping[str, Any], since: datetime | None, until: datetime | None
) -> Page:
    """A page of messages, newest first.

    query: `status`, `type`, `mode`, `to`, `limit`, `cursor`; `key` where one key's are meant
    since, until: instants, the second one excluded
    raises: Invalid on a cursor that is none
    """
    conditions = _filters(organization_id, query, since, until)
    if query["cursor"]:
        conditions.append(sa.tuple_(Message.accepted_at, Message.id) < _position(query["cursor"]))
    statement = _newest_first(sa.select(Message).where(*conditions))
    rows = session.scalars(statement.limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = None
    if len(rows) > query["limit"]:
        following = pagination.encode_cursor(kept[-1].accepted_at.isoformat(), kept[-1].id.hex)
    return Page(kept, following, query["limit"])


def iter_export_rows(
    session: Session,
    organization_id: UUID,
    query: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Any]:
    """Messages as rows of a table, newest first, without their texts.

    query: as of `page`; `cursor` and `limit` are not looked at
    returns: rows with the columns' names
    """
    columns = [column for column in Message.__table__.columns if column.name not in ("body", "lease_token")]
    statement = sa.select(*columns).where(*_filters(organization_id, query, since, until))
    return session.execute(_newest_first(statement).limit(limit)).all()


def _filters(
    organization_id: UUID, query: Mapping[str, Any], since: datetime | None, until: datetime | None
) -> list[sa.ColumnElement[bool]]:
    wanted = {
        Message.status: query["status"],
        Message.channel: query["type"],
        Message.mode: query["mode"],
        Message.recipient: query["to"],
        Message.api_key_id: query.get("key"),
    }
    conditions: list[sa.ColumnElement[bool]] = [Message.organization_id == organization_id]
    conditions += [column == value for column, value in wanted.items() if value is not None]
    if since is not None:
        conditions.append(Message.accepted_at >= since)
    if until is not None:
        conditions.append(Message.accepted_at < until)
    return conditions


def _newest_first(statement: sa.Select[Any]) -> sa.Select[Any]:
    return statement.order_by(Message.accepted_at.desc(), Message.id.desc())


def _position(cursor: str) -> tuple[datetime, UUID]:
    values = pagination.decode_cursor(cursor)
    try:
        at, message_id = values
        return datetime.fromisoformat(at), UUID(hex=message_id)
    except ValueError as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


USAGE_SOURCE = "messages.send"
DRAIN_JOB = "messages.drain"
_NO_OPEN_PERIOD = "usage_events.billing_period_id"
_INSERT = """
INSERT INTO messages (organization_id, id, api_key_id, mode, channel, recipient, subject, body, segments, cost,
  next_at, accepted_at, expires_at)
VALUES (%(org)s, %(id)s, %(api_key)s, %(mode)s, %(channel)s, %(to)s, %(subject)s, %(text)s, %(segments)s, %(cost)s,
  now(), %(at)s, now() + interval '24 h')
"""


class MessageNotFound(NotFound):
    """There is no such message, or another organization or mode has it."""


def metered_units(body: Mapping[str, Any]) -> dict[str, int]:
    """What a message uses of its meter: segments of an SMS, one e-mail."""
    return {body["type"]: content.count_segments(body["message"]) if body["type"] == "sms" else 1}


def accept_message(
    principal: Principal,
    terms: ServiceTerms,
    body: Mapping[str, Any],
    once: IdempotentRequest | None,
    *,
    is_told: bool = False,
) -> dict[str, Any]:
    """Take a message with its usage, both or neither; what was answered will be delivered or fail.

    body: `to`, `message`, `type`, `subject`, already validated
    once: the request's Idempotency-Key, whose answer is kept in the same batch
    is_told: an endpoint asks for the acceptance of messages
    raises: Unavailable when no billing period can be opened; idempotency.KeyReused, idempotency.Replay
    """
    channel = body["type"]
    units = metered_units(body)[channel]
    cost = terms.list_prices[channel] * units if principal.mode == "live" else Decimal(0)
    row = {
        "org": principal.organization_id,
        "id": ids.new_id(),
        "api_key": principal.id,
        "mode": principal.mode,
        "channel": channel,
        "to": body["to"],
        "subject": body["subject"],
        "text": body["message"],
        "segments": units,
        "cost": cost,
    }
    answer = {
        "message_id": row["id"],
        "to": body["to"],
        "type": channel,
        "status": "queued",
        "segments": units,
        "cost": f"{cost.normalize():f}",
        "currency": terms.currency,
        "usage_recorded": principal.mode == "live",
        "mode": principal.mode,
        "organization_id": principal.organization_id,
    }
    accepted = _write(principal, row, answer, (once, is_told))
    queue.wake_workers(DRAIN_JOB)
    if is_told:
        queue.wake_workers(webhook_events.DRAIN_JOB)
    return accepted


def get_message(session: Session, principal: Principal, message_id: UUID) -> Message:
    """A message; a key sees those of its own mode.

    raises: NoSuchMessage
    """
    message = session.get(Message, (principal.organization_id, message_id))
    if message is None or (principal.kind == "key" and message.mode != principal.mode):
        raise MessageNotFound
    return message


def _write(
    principal: Principal,
    row: Mapping[str, Any],
    answer: Mapping[str, Any],
    besides: tuple[IdempotentRequest | None, bool],
) -> dict[str, Any]:
    once, is_told = besides
    told = [_event_statement(principal, row)] if is_told else []
    is_late, is_cleared = False, False
    for _ in range(4):
        at = clock.now()
        accepted = {**answer, "created_at": at}
        kept = [once.statement(accepted)] if once else []
        try:
            engine.execute_batch([*_batch(principal, {**row, "at": at}, kept, is_late=is_late), *told])
        except IntegrityError as error:
            violated = engine.violated_constraint(error)
            if violated == "messages_pkey":  # the first try had been committed when its connection broke
                return accepted
            if violated == KEY_CONSTRAINT and once and not is_cleared:
                if _owned_clause(once, kept):
                    return accepted
                is_cleared = True
            elif violated == _NO_OPEN_PERIOD and not is_late:
                is_late = True
                _open_period(principal.organization_id, at)
            else:
                raise
        else:
            fault_point("accept.after_commit")
            return accepted
    raise ServiceUnavailable


def _event_statement(principal: Principal, row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    state = MessageEventData(row["id"], row["channel"], row["to"], row["segments"], row["mode"], "queued")
    return webhook_events.publish_statement(principal.organization_id, message_events.status_event(state))


def _owned_clause(once: IdempotentRequest, kept: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the answer under the key is this very request's, committed when its connection broke.

    raises: KeyReused; Replay for another's; returns False where an expired one was forgotten
    """
    with tenancy.tenant_session(once.organization_id) as session:
        try:
            idempotency.raise_if_answered(session, once)
        except AlreadyAnswered as replay:
            if replay.response.body == kept[0][1]["idempotency_body"]:
                return True
            raise
    return False


def _open_period(organization_id: UUID, at: datetime) -> None:
    with tenancy.tenant_session(organization_id) as session:
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, at)


def _batch(
    principal: Principal, row: Mapping[str, Any], kept: Sequence[tuple[str, Mapping[str, Any]]], *, is_late: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    bind, insert = tenancy.tenant_scope_statement(principal.organization_id), (_INSERT, row)
    if principal.mode != "live":
        return [bind, *kept, insert]
    event = UsageRecord(
        id=ids.new_id(),
        source=USAGE_SOURCE,
        key=str(row["id"]),
        meter=row["channel"],
        quantity=row["segments"],
        at=row["at"],
        api_key_id=principal.id,
        message_id=row["id"],
    )
    lock, append = periods.record_usage_statements(principal.organization_id, event, is_late=is_late)
    return [bind, lock, *kept, insert, append]


_CANCEL = sa.text("""
UPDATE messages SET status = 'canceled', next_at = NULL, finished_at = now()
WHERE organization_id = :org AND id = :id AND status = 'queued'
RETURNING id, channel, recipient, segments, mode, status, attempts, error_code
""")


class MessageNotCancelable(Conflict):
    """A worker has it already, or it has come to its end."""

    code, message = "NOT_CANCELABLE", "This message can no longer be canceled."


def cancel_message(session: Session, principal: Principal, message_id: UUID) -> Message:
    """Cancel a queued message, take its usage back and tell the endpoints.

    raises: NoSuchMessage, NotCancelable
    """
    organization_id = principal.organization_id
    message = get_message(session, principal, message_id)
    periods.ensure_period(session, organization_id, clock.now())
    periods.lock_periods_shared(session, organization_id)
    row = session.execute(_CANCEL, {"org": organization_id, "id": message_id}).first()
    if row is None:
        raise MessageNotCancelable
    reverse_usage(session, organization_id, [message_id])
    state = MessageEventData(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    webhook_events.publish_many(session, organization_id, [message_events.status_event(state)])
    audit.record_event(
        session, organization_id, audit.actor_for(principal), "message.canceled", ("message", message_id), {}
    )
    session.refresh(message)
    return message


_REVERSE = sa.text("""
INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
  message_id, billing_period_id, late_for_period_id, reversal_of)
SELECT u.organization_id, v.reversal_id, 'reversal', u.id::text, u.meter_code, -u.quantity, u.occurred_at,
  u.api_key_id, m.id,
  CASE p.state WHEN 'open' THEN p.id ELSE (SELECT id FROM billing_periods WHERE organization_id = :org
    AND state = 'open' ORDER BY seq LIMIT 1) END,
  CASE p.state WHEN 'open' THEN u.late_for_period_id ELSE coalesce(u.late_for_period_id, p.id) END, u.id
FROM unnest(CAST(:ids AS uuid[]), CAST(:reversal_ids AS uuid[])) AS v (id, reversal_id)
JOIN messages m ON m.organization_id = :org AND m.id = v.id AND m.status IN ('failed', 'canceled')
  AND m.finished_at = now()
JOIN usage_events u ON u.organization_id = :org AND u.source = 'messages.send' AND u.idempotency_key = m.id::text
JOIN billing_periods p ON p.organization_id = :org AND p.id = u.billing_period_id
JOIN meters t ON t.code = u.meter_code AND t.reverse_on_failure
""")


def reverse_usage(session: Session, organization_id: UUID, message_ids: Sequence[UUID]) -> None:
    """Write one reversal for each of the messages that this transaction failed or canceled.

    The shared period lock is held already.
    raises: IntegrityError on usage_events.billing_period_id where no period is open
    """
    if message_ids:
        values = {"org": organization_id, "ids": list(message_ids), "reversal_ids": [ids.new_id() for _ in message_ids]}
        session.execute(_REVERSE, values)


_MAX_PERIOD_RETRIES = timedelta(hours=24)


class SendingSuspended(Forbidden):
    """What holds for the organization's keys holds for its people."""

    message = "This organization may not send right now; the banner of the dashboard says why."


def send_test_message(session: Session, by: Principal, body: Mapping[str, Any]) -> Message:
    """Take a test message from a person; workers deliver it as they do any other.

    body: `to`, `message`, `type`, `subject`, already validated
    raises: SendingStopped for an organization that is suspended, closed or restricted
    """
    organization_id = by.organization_id
    service_terms = terms.get_terms(session, organization_id)
    if service_terms.organization_status != "active" or service_terms.standing in ("suspended", "restricted"):
        raise SendingSuspended
    now = clock.now()
    message = Message(
        organization_id=organization_id,
        id=ids.new_id(),
        api_key_id=None,
        mode="test",
        channel=body["type"],
        recipient=body["to"],
        subject=body["subject"],
        body=body["message"],
        segments=metered_units(body)[body["type"]],
        cost=Decimal(0),
        next_at=sa.func.now(),
        accepted_at=now,
        expires_at=sa.func.now() + _MAX_PERIOD_RETRIES,
    )
    session.add(message)
    audit.record_event(session, organization_id, audit.actor_for(by), "message.tried", ("message", message.id), {})
    session.flush()  # the answer names it
    if webhook_events.has_explicit_subscriber(session, organization_id, "message.accepted"):
        state = MessageEventData(message.id, message.channel, message.recipient, message.segments, "test", "queued")
        webhook_events.publish_many(session, organization_id, [message_events.status_event(state)])
    queue.enqueue(session, DRAIN_JOB)
    return message
