"""The platform's outbox: to whom, by which template, with which result; never what it said."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.core.errors import NotFound
from saas_api.core.fields import Page
from saas_api.organizations.models import Organization

_mails = sa.table(
    "mails",
    sa.column("id", sa.Uuid),
    sa.column("organization_id", sa.Uuid),
    sa.column("template", sa.Text),
    sa.column("recipient", sa.Text),
    sa.column("status", sa.Text),
    sa.column("attempts", sa.SmallInteger),
    sa.column("next_at", sa.DateTime(timezone=True)),
    sa.column("error_code", sa.Text),
    sa.column("finished_at", sa.DateTime(timezone=True)),
    sa.column("created_at", sa.DateTime(timezone=True)),
)
_HAS_CONTENT = sa.text("SELECT text_body IS NOT NULL FROM mails WHERE id = :id")
_COUNTS = sa.text("""
SELECT status, count(*) AS count FROM mails WHERE created_at > now() - interval '24 h' GROUP BY status ORDER BY status
""")


def history(session: Session, query: dict[str, Any]) -> Page:
    """A page of mails, the newest first.

    query: limit, cursor, format; status; template; recipient
    raises: Invalid
    """
    columns = _mails.c
    wanted = sa.select(*columns, Organization.name.label("organization_name")).outerjoin_from(
        _mails, Organization, Organization.id == columns.organization_id
    )
    if query["status"]:
        wanted = wanted.where(columns.status == query["status"])
    if query["template"]:
        wanted = wanted.where(columns.template == query["template"])
    if query["recipient"]:
        wanted = wanted.where(sa.func.lower(columns.recipient) == query["recipient"].lower())
    return page_of(session, wanted, query, (columns.created_at, columns.id))


def counts(session: Session) -> Sequence[Any]:
    """How many mails of the last 24 hours are in which state."""
    return session.execute(_COUNTS).all()


def get(session: Session, mail_id: UUID) -> Any:
    """A mail without its content.

    raises: NotFound
    """
    row = session.execute(sa.select(*_mails.c).where(_mails.c.id == mail_id)).first()
    if row is None:
        raise NotFound
    return row


def can_be_sent(session: Session, mail_id: UUID) -> bool:
    """Whether a mail still has its content: it is erased when the mail has left or was given up."""
    return bool(session.scalar(_HAS_CONTENT, {"id": mail_id}))
