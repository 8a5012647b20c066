"""What the product runs on, and the mails it writes itself."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Flask, Response, current_app, g

from saas_api.admin.queries.operations import mails, system
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas import files, lists
from saas_api.admin.service import acting
from saas_api.admin.service import operator as acts_as
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.settings import setting
from saas_api.mail import service as mail
from saas_api.organizations.service import audit

bp = Blueprint("system", __name__, url_prefix="/admin")


@bp.get("/system")
@operator("support")
def index() -> Response:
    """Versions, migrations, clocks, disk and settings."""
    with reading() as session:
        database = system.database(session)
    used, whole = system.disk(setting("INSTANCE"))
    shown: dict[str, Any] = {
        "database": database,
        "cache": system.cache(),
        "newest": system.newest_migration(),
        "versions": system.versions(),
        "settings": system.settings(current_app.config, Flask.default_config),
        "now": clock.now(),
    }
    return page("admin/system.html", used=used, whole=whole, **shown)


@bp.get("/mail")
@operator("support")
def mail_index() -> Response:
    """The platform's outbox, without what the mails said."""
    query = lists.asked(lists.MailsQuery())
    with reading() as session:
        found, counts = mails.history(session, query), mails.counts(session)
    if query["format"] == "csv":
        return files.file_of("mails", files.MAILS, found)
    return page("admin/mail/index.html", found=found, counts=counts, states=lists.MAIL_STATES)


@bp.get("/mail/<uuid:mail_id>/send-again")
@operator("support")
def again_form(mail_id: UUID, form: Form | None = None) -> Response:
    """A mail, before it is sent again."""
    with reading() as session:
        one, can_be_sent = mails.get(session, mail_id), mails.can_be_sent(session, mail_id)
    return page("admin/mail/again.html", one=one, can_be_sent=can_be_sent, form=form or Form())


@bp.post("/mail/<uuid:mail_id>/send-again")
@operator("support")
@submits(lists.ReasonForm(), again=again_form, is_once=True, is_fresh=True)
def again(mail_id: UUID, body: dict[str, str]) -> Response:
    """Send a mail again."""
    with acting() as session:
        one = mails.get(session, mail_id)
        mail.send_again(session, mail_id)
        data = {"reason": body["reason"], "template": one.template, "error": one.error_code}
        actor, target = acts_as(g.principal), ("mail", mail_id)
        audit.record(session, one.organization_id, actor, "mail.sent_again", target, data)
    return see_other("admin.system.mail_index", _notice="The mail is on its way again.")
