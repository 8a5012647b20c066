"""Accept, list and cancel messages, and reverse their usage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.models import OrganizationStatus
from saas_api.billing import periods, service_terms
from saas_api.billing.models import BillingStanding
from saas_api.core import clock, ids, money
from saas_api.core.access import KeyMode, Principal
from saas_api.core.db import pagination, types
from saas_api.core.db.pagination import Keyset, Page, PageRequest
from saas_api.core.db.prepared import Statement
from saas_api.core.errors import Conflict, Forbidden, NotFound, ServiceUnavailable
from saas_api.core.jobs import queue
from saas_api.messages import content, past_messages
from saas_api.messages import events as message_events
from saas_api.messages.content import Channel
from saas_api.messages.models import Message, MessageStatus
from saas_api.messages.past_messages import AnyMessage
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.metered_endpoints import Batch
from saas_api.providers import selection
from saas_api.usage import ledger
from saas_api.usage.ledger import UsageRecord
from saas_api.webhooks import events as webhook_events

Found = TypeVar("Found")
_INSTANT = timedelta(microseconds=1)
"""Between instants of PostgreSQL."""

USAGE_SOURCE = "messages.send"
DRAIN_JOB = "messages.drain"
MESSAGE_LIFETIME = timedelta(hours=24)


class MessageNotFound(NotFound):
    """There is no such message, or another organization or mode has it."""


class MessageNotCancelable(Conflict):
    """A worker holds the message, or it has a final status."""

    code, message = "NOT_CANCELABLE", "This message can no longer be canceled."


class SendingSuspended(Forbidden):
    """The organization may not send: its users are stopped as its keys are."""

    message = "This organization may not send right now; the banner of the dashboard says why."


class NoMessageProvider(ServiceUnavailable):
    """No provider delivers live messages: production refuses the mock unless MESSAGES_ALLOW_MOCK is set."""

    code, message = "NO_MESSAGE_PROVIDER", "Live messages cannot be delivered here yet. Keys of test mode work."


@dataclass(frozen=True)
class MessageFilter:
    """Filters of a list of messages; None matches every message.

    since, until: instants of acceptance, the second one excluded
    """

    status: str | None = None
    channel: str | None = None
    mode: str | None = None
    recipient: str | None = None
    api_key_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, organization_id: UUID, model: type[Message]) -> list[sa.ColumnElement[bool]]:
        """Conditions of the matching messages of an organization.

        model: Message or AnyMessage
        """
        values = {
            model.status: self.status,
            model.channel: self.channel,
            model.mode: self.mode,
            model.recipient: self.recipient,
            model.api_key_id: self.api_key_id,
        }
        conditions: list[sa.ColumnElement[bool]] = [model.organization_id == organization_id]
        conditions += [column == value for column, value in values.items() if value is not None]
        if self.since is not None:
            conditions.append(model.accepted_at >= self.since)
        if self.until is not None:
            conditions.append(model.accepted_at < self.until)
        return conditions


def get_meter(body: Mapping[str, Any]) -> str:
    """The meter of a message: each channel has one of the same name."""
    return str(body["type"])


def count_units(body: Mapping[str, Any]) -> int:
    """Units of a message on its meter: the segments of an SMS, or one email."""
    return content.count_segments(body["message"]) if body["type"] == Channel.SMS else 1


def get_message(session: Session, principal: Principal, message_id: UUID) -> Message:
    """Return a message of the caller's organization; an API key finds those of its own mode.

    raises: MessageNotFound
    """
    organization_id = principal.organization_id
    message = session.get(Message, (organization_id, message_id))
    if message is None:
        past = sa.select(AnyMessage).where(AnyMessage.organization_id == organization_id, AnyMessage.id == message_id)
        message = session.scalar(past)
    if message is None or (principal.kind == "key" and message.mode != principal.mode):
        raise MessageNotFound
    return message


def list_messages(session: Session, organization_id: UUID, filters: MessageFilter, request: PageRequest) -> Page:
    """Return a page of messages, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    keyset, until = Keyset(Message.accepted_at.desc(), Message.id.desc()), filters.until
    if request.cursor:  # PostgreSQL plans for the partitions before it alone when it reads an instant
        until = min(until or datetime.max.replace(tzinfo=UTC), keyset.decode(request.cursor)[0] + _INSTANT)

    def read(model: type[Message], part: MessageFilter) -> Page:
        statement = sa.select(model).where(*part.conditions(organization_id, model))
        return pagination.paginate(session, statement, model.accepted_at.desc(), model.id.desc(), request=request)

    return _read(replace(filters, until=until), read, lambda page: page.next_cursor is not None)


def count_messages(session: Session, organization_id: UUID, filters: MessageFilter) -> int:
    """Return how many messages a list has, up to MAX_COUNTED + 1."""

    def read(model: type[Message], part: MessageFilter) -> int:
        return pagination.count_rows(session, sa.select(model.id).where(*part.conditions(organization_id, model)))

    return _read(filters, read, lambda count: count > pagination.MAX_COUNTED)


def count_by_status(session: Session, organization_id: UUID, filters: MessageFilter) -> dict[str, int]:
    """Return how many messages of a list have each status, each up to MAX_COUNTED + 1.

    More pending messages than that count as queued, and none says how many are being sent: a backlog is not read.
    filters: their status is ignored; no index counts the messages of a type or key
    """
    conditions = replace(filters, status=None).conditions(organization_id, Message)
    pending, ended = list(MessageStatus)[:2], list(MessageStatus)[2:]
    counts = [_count_up_to(Message, conditions, pending, Message.next_at)]
    counts += [_count_up_to(Message, conditions, [one], *_newest_first(Message)) for one in ended]
    found = {row[0]: row[1] for row in session.execute(sa.union_all(*counts))}
    few = [status for status in ended if found.get(status, 0) <= pagination.MAX_COUNTED]
    if few and past_messages.may_reach(filters.since):
        conditions = replace(filters, status=None).conditions(organization_id, AnyMessage)
        counts = [_count_up_to(AnyMessage, conditions, [one], *_newest_first(AnyMessage)) for one in few]
        found |= {row[0]: row[1] for row in session.execute(sa.union_all(*counts))}
    by_status: dict[str, int] = {status: found.get(status, 0) for status in MessageStatus}
    if sum(by_status[status] for status in pending) > pagination.MAX_COUNTED:
        by_status[MessageStatus.QUEUED] = pagination.MAX_COUNTED + 1
        del by_status[MessageStatus.SENDING]
    return by_status


def count_newer(session: Session, organization_id: UUID, filters: MessageFilter, after: datetime) -> int:
    """Return how many messages of a list were accepted after an instant, up to MAX_COUNTED + 1."""
    newer = replace(filters, since=max(after + _INSTANT, filters.since or after))
    return count_messages(session, organization_id, newer)


def list_export_rows(session: Session, organization_id: UUID, filters: MessageFilter, limit: int) -> Sequence[Message]:
    """Return up to `limit` messages without their texts, newest first."""

    def read(model: type[Message], part: MessageFilter) -> Sequence[Message]:
        statement = sa.select(model).options(sa.orm.defer(model.body)).where(*part.conditions(organization_id, model))
        return session.scalars(statement.order_by(model.accepted_at.desc(), model.id.desc()).limit(limit)).all()

    return _read(filters, read, lambda rows: len(rows) == limit)


def has_messages(session: Session, organization_id: UUID) -> bool:
    """Whether an organization has messages, those of past months included."""
    return bool(session.scalar(sa.select(sa.exists().where(AnyMessage.organization_id == organization_id))))


def _newest_first(model: type[Message]) -> tuple[sa.ColumnElement[Any], ...]:
    return model.accepted_at.desc(), model.id.desc()


def _count_up_to(model: type[Message], conditions: Sequence[Any], statuses: Sequence[str], *order: Any) -> Any:
    """Counts by status, of MAX_COUNTED + 1 messages at most.

    order: of an index; without it PostgreSQL would read the table from its beginning to find so many rows
    """
    chosen = sa.select(model.status).where(*conditions, model.status.in_(statuses)).order_by(*order)
    rows = chosen.limit(pagination.MAX_COUNTED + 1).subquery()
    return sa.select(rows.c.status, sa.func.count()).group_by(rows.c.status)


def _read(
    filters: MessageFilter, read: Callable[[type[Message], MessageFilter], Found], is_full: Callable[[Found], bool]
) -> Found:
    """Read the newest messages of a list, and older ones until it is full.

    read: by a model, Message or AnyMessage, and the filters of a part of the list, its newest one
    """
    for model, since in past_messages.list_parts(filters.since, filters.until):
        found = read(model, replace(filters, since=since))
        if is_full(found):
            break
    return found


def accept_message(principal: KeyPrincipal, body: Mapping[str, Any]) -> Batch:
    """Accept a message; it is stored with its usage. An accepted message is delivered or fails; it is never lost.

    body: `to`, `message`, `type`, `subject`, validated
    raises: NoMessageProvider, ServiceUnavailable
    """
    if principal.terms is None:
        raise ServiceUnavailable
    if not selection.has_message_provider(principal.mode):
        raise NoMessageProvider
    message = _message_values(principal, body)
    message_id, accepted_at, cost = message["id"], clock.now(), Decimal(0)
    if principal.mode == KeyMode.LIVE:
        cost = principal.terms.list_prices[message["channel"]] * message["segments"]
    message |= {"cost": cost, "currency": principal.terms.currency, "accepted_at": accepted_at}
    statements, jobs = [_insert_statement(message)], [DRAIN_JOB]
    if "message.accepted" in principal.subscribed_types:
        event = message_events.status_event(Message(**message))
        statements.append(webhook_events.publish_statement(principal.organization_id, event))
        jobs.append(webhook_events.DRAIN_JOB)
    return Batch(_acceptance(message), statements, str(message_id), message_id, accepted_at, jobs)


def send_test_message(session: Session, principal: Principal, body: Mapping[str, Any]) -> Message:
    """Store a test message of a user; workers deliver it like any other.

    body: `to`, `message`, `type`, `subject`, validated
    raises: SendingSuspended for an organization that is suspended, closed or restricted
    """
    organization_id = principal.organization_id
    terms = service_terms.get_terms(session, organization_id)
    if terms.organization_status != OrganizationStatus.ACTIVE or terms.standing != BillingStanding.GOOD:
        raise SendingSuspended
    message = Message(**_message_values(principal, body))
    message.api_key_id, message.mode, message.cost = None, KeyMode.TEST, Decimal(0)
    message.currency = terms.currency
    message.accepted_at = clock.now()
    message.next_at, message.expires_at = sa.func.now(), sa.func.now() + MESSAGE_LIFETIME
    session.add(message)
    audit.record_event(
        session, organization_id, audit.actor_for(principal), "message.tried", ("message", message.id), {}
    )
    session.flush()  # the audit event names the message
    session.connection().exec_driver_sql(*ledger.append_test_usage_statement(organization_id, _test_usage(message)))
    if "message.accepted" in webhook_events.list_explicit_types(session, organization_id, message.mode):
        webhook_events.publish_many(session, organization_id, [message_events.status_event(message)])
    queue.enqueue(session, DRAIN_JOB)
    return message


def _test_usage(message: Message) -> UsageRecord:
    units = Decimal(message.segments)
    return UsageRecord(ids.new_id(), USAGE_SOURCE, str(message.id), message.channel, units, message.accepted_at)


REVERSED_COST_SQL = """CASE WHEN (SELECT t.reverse_on_failure FROM meters t WHERE t.code = r.channel) THEN 0
  ELSE r.cost END"""
"""Cost of a failed or canceled message `r`: 0 where `reverse_usage` reverses its usage."""
# Two requests for the same messages lock them in one order, and so wait instead of deadlocking.
_CANCEL = sa.text(f"""
WITH queued AS (SELECT id FROM messages WHERE organization_id = :organization_id
  AND id = ANY (CAST(:ids AS uuid[])) AND status = 'queued' ORDER BY id FOR UPDATE)
UPDATE messages r SET status = 'canceled', next_at = NULL, finished_at = now(), cost = {REVERSED_COST_SQL}
  FROM queued WHERE r.organization_id = :organization_id AND r.id = queued.id RETURNING r.id
""")


def cancel_message(session: Session, principal: Principal, message_id: UUID) -> Message:
    """Cancel a queued message, reverse its usage and publish message.canceled.

    raises: MessageNotFound, MessageNotCancelable
    """
    message = get_message(session, principal, message_id)
    if not _cancel_queued(session, principal, [message_id]):
        raise MessageNotCancelable
    return message


@dataclass(frozen=True)
class SkippedMessage:
    """A message that was not canceled.

    reason: "not_found" or "not_cancelable"
    """

    message_id: UUID
    reason: str


@dataclass(frozen=True)
class CanceledMessages:
    """Messages that were canceled, sorted by id, and those that were not."""

    messages: Sequence[Message]
    skipped: Sequence[SkippedMessage]

    @property
    def count(self) -> int:
        """Number of canceled messages."""
        return len(self.messages)


def cancel_messages(session: Session, principal: Principal, message_ids: Sequence[UUID]) -> CanceledMessages:
    """Cancel those of several messages that are queued, as `cancel_message` does; an API key those of its own mode.

    Messages that a worker holds or that have a final status, and ids of none, are skipped.
    """
    chosen = sa.select(Message.id).filter_by(organization_id=principal.organization_id)
    if principal.kind == "key":
        chosen = chosen.filter_by(mode=principal.mode)
    found = session.scalars(chosen.where(Message.id.in_(message_ids))).all()
    canceled = _cancel_queued(session, principal, found)
    canceled_ids = {message.id for message in canceled}
    skipped = [
        SkippedMessage(message_id, "not_cancelable" if message_id in found else "not_found")
        for message_id in dict.fromkeys(message_ids)
        if message_id not in canceled_ids
    ]
    return CanceledMessages(canceled, skipped)


def _cancel_queued(session: Session, principal: Principal, message_ids: Sequence[UUID]) -> Sequence[Message]:
    """Cancel those of several messages that are queued, and return these, sorted by id."""
    organization_id, actor = principal.organization_id, audit.actor_for(principal)
    periods.ensure_period(session, organization_id, clock.now())
    periods.lock_periods_shared(session, organization_id)
    values = {"organization_id": organization_id, "ids": types.uuid_array(message_ids)}
    canceled_ids = session.scalars(_CANCEL, values).all()
    reverse_usage(session, organization_id, canceled_ids)
    is_canceled = sa.and_(Message.organization_id == organization_id, Message.id.in_(canceled_ids))
    statement = sa.select(Message).where(is_canceled).order_by(Message.id)
    canceled = session.scalars(statement.execution_options(populate_existing=True)).all()
    for message in canceled:
        audit.record_event(session, organization_id, actor, "message.canceled", ("message", message.id), {})
    webhook_events.publish_many(session, organization_id, [message_events.status_event(one) for one in canceled])
    return canceled


_ENDED_MESSAGES = """
SELECT u.id AS event_id, u.month, v.reversal_id
FROM unnest(CAST(:ids AS uuid[]), CAST(:reversal_ids AS uuid[])) AS v (id, reversal_id)
JOIN messages m ON m.organization_id = :organization_id AND m.id = v.id AND m.status IN ('failed', 'canceled')
  AND m.finished_at = now()
JOIN usage_event_keys k ON k.organization_id = :organization_id AND k.source = 'messages.send'
  AND k.idempotency_key = CAST(m.id AS text)
JOIN usage_events u ON u.organization_id = :organization_id AND u.id = k.event_id AND u.month = k.month
JOIN meters t ON t.code = u.meter_code AND t.reverse_on_failure"""


def reverse_usage(session: Session, organization_id: UUID, message_ids: Sequence[UUID]) -> None:
    """Write one reversal for each message that this transaction failed or canceled.

    The caller holds the shared period lock.
    raises: IntegrityError on usage_events.billing_period_id when no period is open
    """
    if message_ids:
        values = {"ids": list(message_ids), "reversal_ids": [ids.new_id() for _ in message_ids]}
        ledger.reverse_events(session, organization_id, _ENDED_MESSAGES, values)


def _message_values(principal: Principal, body: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a new message by name; an instance of the model costs more than all else that accepting does."""
    return {
        "organization_id": principal.organization_id,
        "id": ids.new_id(),
        "api_key_id": principal.id,
        "mode": principal.mode,
        "channel": Channel(body["type"]),
        "recipient": body["to"],
        "subject": body["subject"],
        "body": body["message"],
        "segments": count_units(body),
        "status": MessageStatus.QUEUED,
        "attempts": 0,
    }


def _acceptance(message: Mapping[str, Any]) -> dict[str, Any]:
    text = message["body"] if message["channel"] == Channel.SMS else None
    return {
        "message_id": message["id"],
        "to": message["recipient"],
        "type": message["channel"],
        "status": message["status"],
        "segments": message["segments"],
        "encoding": None if text is None else content.sms_encoding(text),
        "non_gsm_character": None if text is None else content.find_non_gsm_character(text),
        "cost": money.format_unit_price(message["cost"]),
        "currency": message["currency"],
        "usage_recorded": message["mode"] == KeyMode.LIVE,
        "mode": message["mode"],
        "organization_id": message["organization_id"],
        "created_at": message["accepted_at"],
    }


_INSERT = """
INSERT INTO messages (organization_id, id, api_key_id, mode, channel, recipient, subject, body, segments, cost,
  currency, next_at, accepted_at, expires_at)
VALUES (%(org)s, %(id)s, %(api_key)s, %(mode)s, %(channel)s, %(to)s, %(subject)s, %(text)s, %(segments)s, %(cost)s,
  %(currency)s, now(), %(at)s, now() + %(lifetime)s)
"""


def _insert_statement(message: Mapping[str, Any]) -> Statement:
    return _INSERT, {
        "org": message["organization_id"],
        "id": message["id"],
        "api_key": message["api_key_id"],
        "mode": message["mode"],
        "channel": message["channel"],
        "to": message["recipient"],
        "subject": message["subject"],
        "text": message["body"],
        "segments": message["segments"],
        "cost": message["cost"],
        "currency": message["currency"],
        "at": message["accepted_at"],
        "lifetime": MESSAGE_LIFETIME,
    }
