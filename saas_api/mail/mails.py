"""Enqueue a mail, render it, resend it, app_url."""

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.jobs import queue
from saas_api.core.settings import ROOT, setting

TEMPLATES_WITH_TOKENS = ("verify_email", "reset_password", "invitation")
"""Templates whose mails hold a one-time token."""

_FIND_MAIL = sa.text("SELECT status FROM mails WHERE id = :id FOR UPDATE")
_REQUEUE = sa.text("""
UPDATE mails SET status = 'queued', attempts = 0, interruptions = 0, next_at = now(), lease_token = NULL,
  finished_at = NULL
WHERE id = :id AND status IN ('queued', 'failed') AND text_body IS NOT NULL RETURNING id
""")


class EmailContentErased(Conflict):
    """Nothing is left to send: the mail has left, is leaving, or held a one-time token."""

    message = "This mail cannot be sent again: it has left, is just being sent, or held a one-time link that is erased."


def resend(session: Session, mail_id: UUID) -> None:
    """Let a mail that was given up, or that waits for its next try, be due now, with all its tries before it.

    session: of the system
    raises: NotFound, ContentErased
    """
    if session.scalar(_FIND_MAIL, {"id": mail_id}) is None:
        raise NotFound
    if session.execute(_REQUEUE, {"id": mail_id}).first() is None:
        raise EmailContentErased
    queue.enqueue(session, DRAIN_JOB)


DRAIN_JOB = "mail.drain"
MAX_VALUE_LENGTH = 200
_TEMPLATES = ROOT / "templates" / "email"

# A tenant may insert and not read, so nothing is returned; its mail is its own even if the caller does not say so.
_WRITE = sa.text("""
INSERT INTO mails (id, organization_id, template, recipient, subject, text_body, html_body, next_at)
VALUES (:id, coalesce(:organization_id, current_organization()), :template, :recipient, :subject, :text, :html, now())
""")


def enqueue(session: Session, template: str, to: str, *, organization_id: UUID | None = None, **context: Any) -> None:
    """Write a mail, which leaves soon after this session has committed.

    template: and what it is told: "welcome" (organization), "verify_email" (token), "reset_password" (token),
        "invitation" (token, organization, inviter, role), "new_sign_in" (at, ip, user_agent),
        "key_created" (key: its name, prefix: what is shown of it, creator, organization),
        "invoice_ready" (organization, number, amount, currency, due, invoice_id: as the wire shows it); the same words
        take "overdue_remind", "suspended", "written_off", and with `at`, when the next step comes, "overdue_warn" and
        "restricted"; "reinstated", "stopped_by_operator", "resumed_by_operator" (organization), "payment_received"
        (organization, number, amount, currency, invoice_id),
        "payment_failed" (the same, reason), "usage_alert" (organization, what, percent, used, limit, period_end),
        "operator_alert" (subject_line, detail), "webhook_disabled" (organization, url, is_gone); each takes a name to
        greet
    organization_id: None for a mail to a person, who may belong to several
    raises: jinja2's UndefinedError for a context that lacks something
    """
    subject, text, html = render(template, context)
    values = {
        "id": ids.new_id(),
        "organization_id": organization_id,
        "template": template,
        "recipient": to,
        "subject": subject,
        "text": text,
        "html": html,
    }
    session.execute(_WRITE, values)
    queue.enqueue(session, DRAIN_JOB)


def render(template: str, context: dict[str, Any]) -> tuple[str, str, str]:
    """Subject, text and HTML of a mail; what people wrote is one short line in it.

    raises: jinja2's TemplateNotFound for an unknown mail
    """
    known = {"name": "", "link": app_url, **{name: _single_line(value) for name, value in context.items()}}
    module: Any = template_environment().get_template(f"{template}.txt").make_module(known)
    subject = str(module.subject)
    page = template_environment().get_template(f"{template}.html").render(known, subject=subject)
    return subject, f"{str(module).strip()}\n", page


@cache
def template_environment() -> Environment:
    """Where the mails' templates are; text stays text, and a missing word is an error."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def app_url(path: str, **query: str) -> str:
    """An address of the product, as its setting says and never as a request's Host does."""
    return f"{setting('APP_URL')}{path}" + (f"?{urlencode(query)}" if query else "")


def _single_line(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%d %B %Y, %H:%M} {value.tzname()}"
    return " ".join(value.split())[:MAX_VALUE_LENGTH] if isinstance(value, str) else value
