"""The platform's own mail: list without contents, and resend."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists
from saas_api.admin.lists import Columns, ListQuery
from saas_api.core import ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.fields import Email, Text
from saas_api.core.web import pages
from saas_api.mail import mails
from saas_api.mail.mails import MailStatus

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


class MailListQuery(ListQuery):
    """Filters of mails."""

    status = fields.String(load_default=None, validate=validate.OneOf(list(MailStatus)))
    template = Text(maximum=60, load_default=None)
    recipient = Email(load_default=None)


def list_mails(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of mails, newest first.

    query: as of MailListQuery
    raises: ValidationFailed
    """
    columns = _mails.c
    statement = sa.select(*columns, Organization.name.label("organization_name")).outerjoin_from(
        _mails, Organization, Organization.id == columns.organization_id
    )
    statement = statement.where(*_conditions(query))
    if query["status"]:
        statement = statement.where(columns.status == query["status"])
    return lists.paginate_or_export(session, statement, columns.created_at.desc(), columns.id.desc(), query=query)


def count_by_status(session: SystemSession, query: dict[str, Any]) -> dict[str, int]:
    """Number of mails by status with the other filters, as of `lists.count_each`."""
    statement = sa.select(_mails.c.id).where(*_conditions(query))
    return lists.count_each(session, statement, {status: _mails.c.status == status for status in MailStatus})


def _conditions(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    given = {"template": _mails.c.template, "recipient": _mails.c.recipient}
    return [column == query[name] for name, column in given.items() if query[name]]


def get_mail(session: SystemSession, mail_id: UUID) -> Any:
    """A mail without its content, and whether it still has it: content is erased when a mail was sent or has failed.

    raises: NotFound
    """
    row = session.execute(sa.select(*_mails.c, _IS_RESENDABLE).where(_mails.c.id == mail_id)).first()
    if row is None:
        raise NotFound
    return row


@bp.get("/mail")
@require_operator("support")
def index() -> Response:
    """List mails without their contents."""
    query = lists.parse_query(MailListQuery())
    with context.read_session() as session:
        page, counts = list_mails(session, query), count_by_status(session, query)
    if query["format"] == "csv":
        return lists.csv_export("mails", MAIL_COLUMNS, page)
    return pages.render_page("admin/mail/index.html", page=page, counts=counts)


def resend(session: SystemSession, mail_id: UUID, operator: OperatorContext) -> None:
    """Queues a mail again.

    raises: as `mails.resend`
    """
    mail = get_mail(session, mail_id)
    mails.resend(session, mail_id)
    data = {"reason": operator.reason, "template": mail.template, "error": mail.error_code}
    audit.record_event(session, mail.organization_id, operator.actor, "mail.sent_again", ("mail", mail_id), data)
