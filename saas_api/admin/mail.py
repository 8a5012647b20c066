"""Platform mail."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists
from saas_api.admin.context import ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.core import ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound
from saas_api.core.fields import Text
from saas_api.core.web import pages
from saas_api.core.web.forms import Form, form_view
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
_HAS_CONTENT = sa.text("SELECT text_body IS NOT NULL FROM mails WHERE id = :id")
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
    """A mail without its content.

    raises: NotFound
    """
    row = session.execute(sa.select(*_mails.c).where(_mails.c.id == mail_id)).first()
    if row is None:
        raise NotFound
    return row


def is_resendable(session: Session, mail_id: UUID) -> bool:
    """Whether a mail still has its content: it is erased when the mail has left or was given up."""
    return bool(session.scalar(_HAS_CONTENT, {"id": mail_id}))


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


@bp.get("/mail/<uuid:mail_id>/send-again")
@require_operator("support")
def resend_form(mail_id: UUID, form: Form | None = None) -> Response:
    """A mail, before it is sent again."""
    with context.read_session() as session:
        one, can_be_sent = get_mail(session, mail_id), is_resendable(session, mail_id)
    return pages.render_page("admin/mail/again.html", one=one, can_be_sent=can_be_sent, form=form or Form())


@bp.post("/mail/<uuid:mail_id>/send-again")
@require_operator("support")
@form_view(ReasonForm(), form=resend_form, is_idempotent=True, requires_fresh_login=True)
def resend(mail_id: UUID, body: dict[str, str]) -> Response:
    """Send a mail again."""
    with context.write_session() as session:
        one = get_mail(session, mail_id)
        mails.resend(session, mail_id)
        data = {"reason": body["reason"], "template": one.template, "error": one.error_code}
        actor, target = context.current_operator(g.principal), ("mail", mail_id)
        audit.record_event(session, one.organization_id, actor, "mail.sent_again", target, data)
    return pages.redirect_to("admin.mail.index", _notice="The mail is on its way again.")
