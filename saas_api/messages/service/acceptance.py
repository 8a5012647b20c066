"""Accepting messages, in one round trip, and showing them. PostgreSQL is the queue: an accepted row is due work."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock, observe, queue, tenancy
from saas_api.core.access import Principal
from saas_api.core.db import constraint_of, execute_once
from saas_api.core.errors import NotFound, Unavailable
from saas_api.core.idempotency import TAKEN, Once, Replay, look_up
from saas_api.core.ids import new_id
from saas_api.messages import rules
from saas_api.messages.models import Message
from saas_api.messages.service.telling import news_of
from saas_api.usage.rules import Usage
from saas_api.webhooks import service as webhooks

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
    principal: Principal, terms: billing.Terms, body: Mapping[str, Any], once: Once | None, *, is_told: bool = False
) -> dict[str, Any]:
    """Take a message with its usage, both or neither; what was answered will be delivered or fail.

    body: `to`, `message`, `type`, `subject`, already validated
    once: the request's Idempotency-Key, whose answer is kept in the same batch
    is_told: an endpoint asks for the acceptance of messages
    raises: Unavailable when no billing period can be opened; idempotency.KeyReused, idempotency.Replay
    """
    channel = body["type"]
    units = units_of(body)[channel]
    cost = terms.list_prices[channel] * units if principal.mode == "live" else Decimal(0)
    row = {
        "org": principal.organization_id,
        "id": new_id(),
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
    queue.wake(DRAIN)
    if is_told:
        queue.wake(webhooks.DRAIN)
    return accepted


def get(session: Session, principal: Principal, message_id: UUID) -> Message:
    """A message; a key sees those of its own mode.

    raises: NoSuchMessage
    """
    message = session.get(Message, (principal.organization_id, message_id))
    if message is None or (principal.kind == "key" and message.mode != principal.mode):
        raise NoSuchMessage
    return message


def _write(
    principal: Principal, row: Mapping[str, Any], answer: Mapping[str, Any], besides: tuple[Once | None, bool]
) -> dict[str, Any]:
    once, is_told = besides
    told = [_news_statement(principal, row)] if is_told else []
    is_late, is_cleared = False, False
    for _ in range(4):
        at = clock.now()
        accepted = {**answer, "created_at": at}
        kept = [once.statement(accepted)] if once else []
        try:
            execute_once([*_batch(principal, {**row, "at": at}, kept, is_late=is_late), *told])
        except IntegrityError as error:
            violated = constraint_of(error)
            if violated == "messages_pkey":  # the first try had been committed when its connection broke
                return accepted
            if violated == TAKEN and once and not is_cleared:
                if _is_own(once, kept):
                    return accepted
                is_cleared = True
            elif violated == _NO_OPEN_PERIOD and not is_late:
                is_late = True
                _open_period(principal.organization_id, at)
            else:
                raise
        else:
            observe.fault("accept.after_commit")
            return accepted
    raise Unavailable


def _news_statement(principal: Principal, row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    state = rules.State(row["id"], row["channel"], row["to"], row["segments"], row["mode"], "queued")
    return webhooks.publish_statement(principal.organization_id, news_of(state))


def _is_own(once: Once, kept: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the answer under the key is this very request's, committed when its connection broke.

    raises: KeyReused; Replay for another's; returns False where an expired one was forgotten
    """
    with tenancy.transaction(once.organization_id) as session:
        try:
            look_up(session, once)
        except Replay as replay:
            if replay.kept.body == kept[0][1]["once_body"]:
                return True
            raise
    return False


def _open_period(organization_id: UUID, at: datetime) -> None:
    with tenancy.transaction(organization_id) as session:
        billing.ensure_account(session, organization_id)
        billing.ensure_period(session, organization_id, at)


def _batch(
    principal: Principal, row: Mapping[str, Any], kept: Sequence[tuple[str, Mapping[str, Any]]], *, is_late: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    bind, insert = tenancy.bind_statement(principal.organization_id), (_INSERT, row)
    if principal.mode != "live":
        return [bind, *kept, insert]
    event = Usage(
        id=new_id(),
        source=SOURCE,
        key=str(row["id"]),
        meter=row["channel"],
        quantity=row["segments"],
        at=row["at"],
        api_key_id=principal.id,
        message_id=row["id"],
    )
    lock, append = billing.record_statements(principal.organization_id, event, is_late=is_late)
    return [bind, lock, *kept, insert, append]
