"""Messages of a demo organization and their usage, inserted in bulk: one by one they would take minutes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import periods, service_terms
from saas_api.billing.models import BillingStanding
from saas_api.core import ids
from saas_api.core.access import KeyMode
from saas_api.messages import content
from saas_api.messages.content import Channel
from saas_api.messages.models import MessageStatus

SOURCE = "messages.send"
_HOUR_WEIGHTS = (1, 1, 1, 1, 1, 2, 3, 6, 11, 14, 15, 14, 12, 13, 14, 13, 11, 9, 7, 6, 5, 4, 3, 2)
_BODIES = (
    "Your verification code is 482913. It expires in 10 minutes.",
    "Your parcel is out for delivery and arrives between 14:00 and 16:00.",
    "Reminder: your appointment is tomorrow at 09:30. Reply C to cancel.",
    "Your order has been confirmed. Thank you for shopping with us.",
    "A new sign-in to your account was noticed. If this was not you, change your password today.",
    (
        "Your invoice for last month is ready. You find it in your account under Billing, together with all the "
        "earlier ones; there is nothing to do if you pay by direct debit, since we collect it on the fifth."
    ),
)
_FAILURES = ("unreachable", "invalid_recipient", "opted_out", "bounced")
_INSERT_MESSAGES = text("""
INSERT INTO messages (organization_id, id, api_key_id, mode, channel, recipient, subject, body, segments, cost, status,
  attempts, error_code, provider_reference, accepted_at, expires_at, sent_at, finished_at)
SELECT :org, v.id, v.key, v.mode, v.channel, v.recipient, v.subject, v.body, v.segments,
  CASE v.mode WHEN 'live' THEN v.segments * CAST(v.price AS numeric) ELSE 0 END, v.status, 1, v.error,
  CASE WHEN v.error IS NULL THEN 'mock-' || v.id END, v.at, v.at + interval '24 h',
  CASE WHEN v.error IS NULL THEN v.done END, v.done
FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS uuid[]), CAST(:modes AS text[]), CAST(:channels AS text[]),
  CAST(:recipients AS text[]), CAST(:subjects AS text[]), CAST(:bodies AS text[]), CAST(:sizes AS int[]),
  CAST(:prices AS text[]), CAST(:statuses AS text[]), CAST(:errors AS text[]), CAST(:times AS timestamptz[]),
  CAST(:ends AS timestamptz[]))
  AS v (id, key, mode, channel, recipient, subject, body, segments, price, status, error, at, done)""")
_INSERT_USAGE = text("""
WITH used AS (
  SELECT v.*, p.id AS period_id, p.month
  FROM unnest(CAST(:usage_ids AS uuid[]), CAST(:usage_sources AS text[]), CAST(:usage_names AS text[]),
    CAST(:usage_meters AS text[]), CAST(:usage_quantities AS int[]), CAST(:usage_times AS timestamptz[]),
    CAST(:usage_keys AS uuid[]), CAST(:usage_messages AS uuid[]), CAST(:usage_reversals AS uuid[]))
    AS v (id, source, known_by, meter, quantity, at, key, message, reversal_of)
  JOIN billing_periods p ON p.organization_id = :org AND p.state = 'open' AND p.starts_at <= v.at AND p.ends_at > v.at),
keys AS (
  INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
  SELECT :org, source, known_by, id, month, quantity FROM used)
INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
  message_id, billing_period_id, reversal_of, month)
SELECT :org, id, source, known_by, meter, quantity, at, key, message, period_id, reversal_of, month FROM used
ORDER BY reversal_of IS NOT NULL""")


@dataclass(frozen=True)
class DemoMessage:
    """A message of the demo, delivered or failed at `done_at`."""

    id: UUID
    key: UUID
    mode: str
    channel: str
    recipient: str
    subject: str | None
    body: str
    size: int
    status: str
    error: str | None
    at: datetime
    done_at: datetime


def daily_weights(first: datetime, days: int, chance: random.Random) -> list[float]:
    """Relative number of messages of each day: growing, lower at weekends, with some variation."""
    weights = []
    for number in range(days):
        is_weekend = (first + timedelta(days=number)).weekday() >= 5
        growth = 0.5 + number / (2 * days)
        weights.append(growth * (0.45 if is_weekend else 1.0) * chance.uniform(0.8, 1.25))
    return weights


def messages_for_day(
    begin: datetime, end: datetime, number: int, keys: Sequence[UUID], chance: random.Random
) -> list[DemoMessage]:
    """Messages between two instants of one day, the earliest first; most in working hours.

    keys: the live key that sends most, one that sends some, and the test key
    """
    hours = max(1, round((end - begin).total_seconds() / 3600))
    chosen = chance.choices(range(hours), [_HOUR_WEIGHTS[(begin.hour + hour) % 24] for hour in range(hours)], k=number)
    width = (end - begin) / hours
    times = sorted(begin + width * (hour + chance.random()) for hour in chosen)
    return [_message(at, keys, chance) for at in times]


def write_messages(session: Session, organization_id: UUID, messages: Sequence[DemoMessage]) -> bool:
    """Insert messages and their usage; the usage of failed messages is reversed.

    returns: False when the organization is suspended, in which case nothing is inserted
    """
    if not messages:
        return True
    periods.ensure_period(session, organization_id, messages[0].at)
    periods.ensure_period(session, organization_id, messages[-1].at)
    periods.lock_periods_shared(session, organization_id)
    terms = service_terms.get_terms(session, organization_id)
    if terms.standing == BillingStanding.SUSPENDED:
        return False
    values = {
        "org": organization_id,
        **_message_columns(messages),
        **_usage_columns([message for message in messages if message.mode == KeyMode.LIVE]),
        "prices": [str(terms.list_prices[message.channel]) for message in messages],
    }
    session.execute(_INSERT_MESSAGES, values)
    session.execute(_INSERT_USAGE, values)
    return True


def _message(at: datetime, keys: Sequence[UUID], chance: random.Random) -> DemoMessage:
    is_test = chance.random() < 0.03
    is_sms = chance.random() < 0.78
    body = chance.choice(_BODIES)
    error = chance.choice(_FAILURES) if chance.random() < 0.028 else None
    number = chance.randrange(1_000_000, 9_999_999)
    return DemoMessage(
        _message_id(at, chance),
        keys[2] if is_test else keys[0] if chance.random() < 0.8 else keys[1],
        KeyMode.TEST if is_test else KeyMode.LIVE,
        Channel.SMS if is_sms else Channel.EMAIL,
        f"+23480{number}0"[:14] if is_sms else f"customer{number}@mail.example",
        None if is_sms else body.partition(".")[0],
        body,
        content.count_segments(body) if is_sms else 1,
        MessageStatus.FAILED if error else MessageStatus.DELIVERED,
        error,
        at,
        at + timedelta(seconds=chance.uniform(0.2, 4.0)),
    )


def _message_id(at: datetime, chance: random.Random) -> UUID:
    """A UUIDv7 of an instant, as `core.ids.new_id` generates it."""
    value = int(at.timestamp() * 1000) << 80 | chance.getrandbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def _message_columns(messages: Sequence[DemoMessage]) -> dict[str, list[Any]]:
    fields = {
        "ids": "id",
        "keys": "key",
        "modes": "mode",
        "channels": "channel",
        "recipients": "recipient",
        "subjects": "subject",
        "bodies": "body",
        "sizes": "size",
        "statuses": "status",
        "errors": "error",
        "times": "at",
        "ends": "done_at",
    }
    return {name: [getattr(message, field) for message in messages] for name, field in fields.items()}


def _usage_columns(messages: Sequence[DemoMessage]) -> dict[str, list[Any]]:
    """Columns of the ledger: the usage of all messages, then the reversals of failed ones."""
    pairs = [(message, ids.new_id()) for message in messages]
    usage = [(message, SOURCE, str(message.id), message.size, event_id, None) for message, event_id in pairs]
    reversals = [
        (message, "reversal", str(event_id), -message.size, ids.new_id(), event_id)
        for message, event_id in pairs
        if message.status == MessageStatus.FAILED
    ]
    rows = [*usage, *reversals]
    return {
        "usage_ids": [row[4] for row in rows],
        "usage_sources": [row[1] for row in rows],
        "usage_names": [row[2] for row in rows],
        "usage_meters": [row[0].channel for row in rows],
        "usage_quantities": [row[3] for row in rows],
        "usage_times": [row[0].at for row in rows],
        "usage_keys": [row[0].key for row in rows],
        "usage_messages": [row[0].id for row in rows],
        "usage_reversals": [row[5] for row in rows],
    }
