"""Messages that a person sends to try things out: in test mode always, so nothing is metered and nothing costs."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.errors import Forbidden
from saas_api.core.ids import new_id
from saas_api.core.queue import enqueue
from saas_api.messages import rules
from saas_api.messages.models import Message
from saas_api.messages.service.acceptance import DRAIN, units_of
from saas_api.messages.service.telling import news_of
from saas_api.organizations.service import audit
from saas_api.webhooks import service as webhooks

_KEPT_TRYING = timedelta(hours=24)


class SendingStopped(Forbidden):
    """What holds for the organization's keys holds for its people."""

    message = "This organization may not send right now; the banner of the dashboard says why."


def try_out(session: Session, by: Principal, body: Mapping[str, Any]) -> Message:
    """Take a test message from a person; workers deliver it as they do any other.

    body: `to`, `message`, `type`, `subject`, already validated
    raises: SendingStopped for an organization that is suspended, closed or restricted
    """
    organization_id = by.organization_id
    terms = billing.terms(session, organization_id)
    if terms.organization_status != "active" or terms.standing in ("suspended", "restricted"):
        raise SendingStopped
    now = clock.now()
    message = Message(
        organization_id=organization_id,
        id=new_id(),
        api_key_id=None,
        mode="test",
        channel=body["type"],
        recipient=body["to"],
        subject=body["subject"],
        body=body["message"],
        segments=units_of(body)[body["type"]],
        cost=Decimal(0),
        next_at=sa.func.now(),
        accepted_at=now,
        expires_at=sa.func.now() + _KEPT_TRYING,
    )
    session.add(message)
    audit.record(session, organization_id, audit.actor_of(by), "message.tried", ("message", message.id), {})
    session.flush()  # the answer names it
    if webhooks.is_named(session, organization_id, "message.accepted"):
        state = rules.State(message.id, message.channel, message.recipient, message.segments, "test", "queued")
        webhooks.publish_many(session, organization_id, [news_of(state)])
    enqueue(session, DRAIN)
    return message
