"""Platform mail."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists
from saas_api.admin.lists import Columns, ListQuery
from saas_api.core import ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound
from saas_api.core.fields import Text
from saas_api.core.web import pages
from saas_api.mail import mails

bp = Blueprint("mail", __name__, url_prefix="/admin")

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
_IS_RESENDABLE = sa.literal_column("text_body IS NOT NULL", sa.Boolean).label("is_resendable")
_COUNTS = sa.text("""
SELECT status, count(*) AS count FROM mails WHERE created_at > now() - interval '24 h' GROUP BY status ORDER BY status
""")


def list_mails(session: Session, query: dict[str, Any]) -> Page:
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
    return lists.paginate_or_export(session, wanted, query, (columns.created_at, columns.id))


def count_by_status(session: Session) -> Sequence[Any]:
    """How many mails of the last 24 hours are in which state."""
    return session.execute(_COUNTS).all()


def get_mail(session: Session, mail_id: UUID) -> Any:
    """A mail without its content, and whether it still has it: content is erased when a mail was sent or has failed.

    raises: NotFound
    """
    row = session.execute(sa.select(*_mails.c, _IS_RESENDABLE).where(_mails.c.id == mail_id)).first()
    if row is None:
        raise NotFound
    return row


MAIL_COLUMNS: Columns = {
    "id": lambda row: str(row.id),
    "organization_id": lambda row: ids.format_id("org", row.organization_id) if row.organization_id else "",
    "template": lambda row: row.template,
    "recipient": lambda row: row.recipient,
    "status": lambda row: row.status,
    "attempts": lambda row: row.attempts,
    "error_code": lambda row: row.error_code or "",
    "created_at": lambda row: lists.csv_time(row.created_at),
    "finished_at": lambda row: lists.csv_time(row.finished_at),
}
MailStatus = ("queued", "sending", "sent", "failed")


class MailListQuery(ListQuery):
    """Filters of the outbox."""

    status = fields.String(load_default=None, validate=validate.OneOf(MailStatus))
    template = Text(maximum=60, load_default=None)
    recipient = Text(maximum=254, load_default=None)


@bp.get("/mail")
@require_operator("support")
def index() -> Response:
    """The platform's outbox, without what the mails said."""
    query = lists.parse_query(MailListQuery())
    with context.read_session() as session:
        found, counts = list_mails(session, query), count_by_status(session)
    if query["format"] == "csv":
        return lists.csv_export("mails", MAIL_COLUMNS, found)
    return pages.render_page("admin/mail/index.html", found=found, counts=counts, states=MailStatus)


def resend(session: Session, mail_id: UUID, operator: OperatorContext) -> None:
    """Queues a mail again.

    raises: as `mails.resend`
    """
    mail = get_mail(session, mail_id)
    mails.resend(session, mail_id)
    data = {"reason": operator.reason, "template": mail.template, "error": mail.error_code}
    audit.record_event(session, mail.organization_id, operator.actor, "mail.sent_again", ("mail", mail_id), data)
