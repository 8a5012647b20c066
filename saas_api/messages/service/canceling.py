"""Canceling a message that no worker has taken yet."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.errors import Conflict
from saas_api.messages import rules
from saas_api.messages.models import Message
from saas_api.messages.service.acceptance import get
from saas_api.messages.service.reversing import reverse
from saas_api.messages.service.telling import news_of
from saas_api.organizations.service import audit
from saas_api.webhooks import service as webhooks

_CANCEL = sa.text("""
UPDATE messages SET status = 'canceled', next_at = NULL, finished_at = now()
WHERE organization_id = :org AND id = :id AND status = 'queued'
RETURNING id, channel, recipient, segments, mode, status, attempts, error_code
""")


class NotCancelable(Conflict):
    """A worker has it already, or it has come to its end."""

    code, message = "NOT_CANCELABLE", "This message can no longer be canceled."


def cancel(session: Session, principal: Principal, message_id: UUID) -> Message:
    """Cancel a queued message, take its usage back and tell the endpoints.

    raises: NoSuchMessage, NotCancelable
    """
    organization_id = principal.organization_id
    message = get(session, principal, message_id)
    billing.ensure_period(session, organization_id, clock.now())
    billing.hold_periods(session, organization_id)
    row = session.execute(_CANCEL, {"org": organization_id, "id": message_id}).first()
    if row is None:
        raise NotCancelable
    reverse(session, organization_id, [message_id])
    state = rules.State(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    webhooks.publish_many(session, organization_id, [news_of(state)])
    audit.record(session, organization_id, audit.actor_of(principal), "message.canceled", ("message", message_id), {})
    session.refresh(message)
    return message
