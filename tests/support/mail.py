"""Enqueues mails, delivers them as a worker does, and reads the table and the mailbox."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.core.jobs.outbox import Claim
from saas_api.mail import dispatch, mails
from saas_api.providers import mailbox
from saas_api.providers.mailbox import StoredEmail

OVERDUE = {
    "organization": "Acme",
    "number": "INV-000042",
    "amount": "$32.05",
    "due": "2 May 2026",
    "invoice_id": "inv_0123456789abcdefghjkmnpqrs",
}
CONTEXTS: dict[str, dict[str, Any]] = {
    "welcome": {},
    "verify_email": {"token": "t0ken-verify"},
    "change_email": {"token": "t0ken-change"},
    "verify_billing_email": {"token": "t0ken-billing", "requester": "alice@acme.example"},
    "reset_password": {"token": "t0ken-reset"},
    "invitation": {"token": "t0ken-join", "inviter": "alice@acme.example", "role": "member"},
    "new_sign_in": {"at": "1 May 2026", "ip": "192.0.2.7", "browser": "curl"},
    "invoice_ready": {**OVERDUE, "period": "April 2026"},
    "invoice_copy": {
        "organization": "Acme",
        "number": "INV-000042",
        "total": "$32.05",
        "period": "April 2026",
        "invoice_id": OVERDUE["invoice_id"],
    },
    "payment_received": {
        "organization": "Acme",
        "number": "INV-000042",
        "amount": "$32.05",
        "period": "April 2026",
        "invoice_id": OVERDUE["invoice_id"],
    },
    "payment_failed": {
        "organization": "Acme",
        "number": "INV-000042",
        "amount": "$32.05",
        "period": "April 2026",
        "reason": "card_declined",
        "invoice_id": OVERDUE["invoice_id"],
    },
    "overdue_remind": OVERDUE,
    "overdue_warn": {**OVERDUE, "at": "9 May 2026"},
    "restricted": {**OVERDUE, "at": "16 May 2026"},
    "suspended": OVERDUE,
    "written_off": OVERDUE,
    "reinstated": {"organization": "Acme"},
    "stopped_by_operator": {"organization": "Acme", "reason": "Fraud reported by three recipients."},
    "resumed_by_operator": {"organization": "Acme"},
    "organization_closed": {"organization": "Acme"},
    "usage_alert": {
        "organization": "Acme",
        "what": "spend cap",
        "percent": "80%",
        "used": "$80.00",
        "limit": "$100.00",
        "period_end": "1 June 2026",
    },
    "plan_version_changed": {
        "organization": "Acme",
        "plan": "Starter",
        "at": datetime(2026, 6, 1, tzinfo=UTC),
        "changes": ["Base amount: $29.00 a month before, $39.00 from then on", "Price of sms changes"],
    },
    "operator_alert": {"subject_line": "a payment is quarantined", "detail": "$42.00 came for INV-000042."},
    "security_notice": {
        "subject_line": "A webhook endpoint was changed",
        "facts": ["Organization: Acme", "By: Alice (alice@acme.example)"],
        "advice": "Change your password, restore the endpoint, and rotate its secret at once, please.",
        "path": "/dashboard/webhooks",
        "guide_path": "/docs/webhooks",
        "at": "1 June 2026, 00:00 UTC",
        "ip": "192.0.2.7",
    },
    "webhook_disabled": {
        "organization": "Acme",
        "endpoint_id": "whe_0123456789abcdefghjkmnpqrs",
        "url": "https://acme.example/hook",
        "is_gone": False,
    },
}


def enqueue_mail(app: Flask, to: str = "ann@customer.example", template: str = "verify_email", **context: Any) -> None:
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        mails.enqueue(session, template, to, **{**CONTEXTS[template], **context})


def mail_rows(app: Flask, columns: str = "status, attempts, error_code") -> list[Any]:
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        return list(session.execute(sa.text(f"SELECT {columns} FROM mails ORDER BY id")))


def make_mails_due(app: Flask) -> None:
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        session.execute(sa.text("UPDATE mails SET next_at = now() WHERE next_at IS NOT NULL"))


def deliver(app: Flask, organization_id: UUID | None = None) -> int:
    with app.app_context():
        return dispatch.deliver_batch(organization_id)


def claim_mails(app: Flask, organization_id: UUID | None = None) -> Claim:
    """Claim due mails, as a worker does that is killed before it sends them."""
    with app.app_context():
        return dispatch.claim_batch(organization_id)


def stored_emails(app: Flask) -> list[StoredEmail]:
    with app.app_context():
        return list(mailbox.list_emails())


def links(text: str) -> set[str]:
    return set(re.findall(r"https?://[^\s\"<>]+", text))
