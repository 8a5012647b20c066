"""Render and enqueue mails of the platform, and resend them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from sqlalchemy.orm import Session

from saas_api.core import brand, formatting, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.jobs import queue
from saas_api.core.settings import ROOT, setting
from saas_api.mail.attachments import Attachment

DRAIN_JOB = "mail.drain"
MAX_VALUE_LENGTH = 200
_TEMPLATES = ROOT / "templates/email"
TEMPLATES_WITH_TOKENS = ("verify_email", "change_email", "reset_password", "invitation")
"""Templates with a one-time token: their content is erased even when the mail fails."""


class MailStatus(StrEnum):
    """The status of a mail; the last two are final."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"


class EmailContentErased(Conflict):
    """There is no content to send: the mail was sent, is being sent, or held a one-time token."""

    message = (
        "This email can't be resent: it was sent, is being sent, or contained a one-time link that has been erased."
    )


def render(template: str, context: dict[str, Any]) -> tuple[str, str, str]:
    """Return subject, text and HTML of a mail. Texts in the context become one line of at most MAX_VALUE_LENGTH.

    raises: jinja2's TemplateNotFound for an unknown template
    """
    values = {"name": "", **{name: _single_line(value) for name, value in context.items()}}
    module: Any = template_environment().get_template(f"{template}.txt").make_module(values)
    subject = str(module.subject)
    html = template_environment().get_template(f"{template}.html").render(values, subject=subject)
    return subject, f"{str(module).strip()}\n", html


@cache
def template_environment() -> Environment:
    """Return the environment of the mail templates: HTML is escaped, and an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(link=app_url, brand=brand.template_global)  # macros see globals only
    return environment


def format_time(instant: datetime, zone: str) -> str:
    """An instant in a mail, which names its zone, such as "Mar 5, 2026, 2:00 PM Europe/Paris"."""
    return f"{formatting.format_time(instant, zone)} {zone}"


def app_url(path: str, **query: str) -> str:
    """Return a URL of the product. It is built from the setting APP_URL and never from the Host of a request."""
    return f"{setting('APP_URL')}{path}" + (f"?{urlencode(query)}" if query else "")


@dataclass(frozen=True)
class NewMail:
    """A mail to enqueue; the names are those of `enqueue`.

    attachment: a file of the organization, which the mail carries
    """

    template: str
    to: str
    organization_id: UUID | None
    context: dict[str, Any]
    attachment: Attachment | None = None


# A tenant may insert and not read, so there is no RETURNING; its mails get its organization in any case.
_INSERT = sa.text("""
INSERT INTO mails (id, organization_id, template, recipient, subject, text_body, html_body, attachment, next_at)
SELECT m.id, coalesce(m.organization_id, current_organization()), m.template, m.recipient, m.subject, m.text_body,
  m.html_body, m.attachment, now()
FROM unnest(CAST(:ids AS uuid[]), CAST(:organizations AS uuid[]), CAST(:templates AS text[]),
  CAST(:recipients AS text[]), CAST(:subjects AS text[]), CAST(:texts AS text[]), CAST(:htmls AS text[]),
  CAST(:attachments AS jsonb[]))
  AS m (id, organization_id, template, recipient, subject, text_body, html_body, attachment)
""")


def enqueue(session: Session, template: str, to: str, *, organization_id: UUID | None = None, **context: Any) -> None:
    """Store a mail, which is sent after the session commits.

    template: with its context: "welcome", "verify_email" (token), "change_email" (token), "reset_password" (token),
        "verify_billing_email" (token, requester: the address), "invitation" (token, inviter: the address, role),
        "new_sign_in" (at, ip, browser),
        "invoice_ready" (organization, number, amount, due, period, invoice_id: as in the API); without the period
        for "overdue_remind", "suspended", "written_off", and with `at`, the time of the next step, "overdue_warn" and
        "restricted"; "reinstated", "organization_closed" (organization), "stopped_by_operator",
        "resumed_by_operator" (organization, reason);
        "invoice_copy" (organization, number, total, period, invoice_id),
        "payment_received" (organization, number, amount, period, invoice_id),
        "payment_failed" (the same, reason), "usage_alert" (organization, what, percent, used, limit, period_end),
        "plan_version_changed" (organization, plan, at, changes: lines of text),
        "operator_alert" (subject_line, detail), "security_notice" (subject_line, facts: lines of text, advice, path,
        guide_path, at, ip), "webhook_disabled" (organization, endpoint_id, url, is_gone); each takes `name`,
        the name of the recipient
    organization_id: None for a mail to a user, who may be a member of several organizations
    raises: jinja2's UndefinedError for an incomplete context
    """
    enqueue_many(session, [NewMail(template, to, organization_id, context)])


def enqueue_many(session: Session, new_mails: Sequence[NewMail]) -> None:
    """Store several mails in one statement; otherwise as `enqueue`."""
    if not new_mails:
        return
    rendered = [render(mail.template, mail.context) for mail in new_mails]
    values = {
        "ids": ids.new_ids(len(new_mails)),
        "organizations": [mail.organization_id for mail in new_mails],
        "templates": [mail.template for mail in new_mails],
        "recipients": [mail.to for mail in new_mails],
        "subjects": [subject for subject, _, _ in rendered],
        "texts": [text for _, text, _ in rendered],
        "htmls": [html for _, _, html in rendered],
        "attachments": [mail.attachment and json.dumps(mail.attachment.to_json()) for mail in new_mails],
    }
    session.execute(_INSERT, values)
    queue.enqueue(session, DRAIN_JOB)


_LOCK_MAIL = sa.text("SELECT status FROM mails WHERE id = :id FOR UPDATE")
_REQUEUE = sa.text("""
UPDATE mails SET status = 'queued', attempts = 0, interruptions = 0, next_at = now(), lease_token = NULL,
  finished_at = NULL
WHERE id = :id AND status IN ('queued', 'failed') AND text_body IS NOT NULL RETURNING id
""")


def resend(session: SystemSession, mail_id: UUID) -> None:
    """Make a failed or waiting mail due now and reset its attempts.

    raises: NotFound, EmailContentErased
    """
    if session.scalar(_LOCK_MAIL, {"id": mail_id}) is None:
        raise NotFound
    if session.execute(_REQUEUE, {"id": mail_id}).first() is None:
        raise EmailContentErased
    queue.enqueue(session, DRAIN_JOB)


def _single_line(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_single_line(item) for item in value]
    return " ".join(value.split())[:MAX_VALUE_LENGTH] if isinstance(value, str) else value
