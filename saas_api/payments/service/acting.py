"""What a step of dunning does: a mail, an event, the standing, and in the end no more than that."""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.billing import service as billing
from saas_api.billing.models import Invoice
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.organizations import queries as organization_queries
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.payments.models import DunningStep
from saas_api.payments.rules import dunning as rules
from saas_api.users import service as users

_READERS = ("owner", "billing")
_TEMPLATES = {
    "remind": "overdue_remind",
    "warn": "overdue_warn",
    "restrict": "restricted",
    "suspend": "suspended",
    "write_off": "written_off",
}
_ACTIONS = text("""
SELECT s.action FROM dunning_steps s
JOIN dunning_runs r ON r.organization_id = s.organization_id AND r.id = s.run_id
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
WHERE r.organization_id = :organization_id AND s.state = 'done' AND i.state IN ('open', 'uncollectible')""")


def act(session: Session, invoice: Invoice, step: DunningStep, later: Sequence[DunningStep]) -> None:
    """Do what a step says; its row says already that it is done.

    later: the steps that are still to come
    """
    next_at = later[0].run_at if later else None
    if step.ordinal == 1:
        billing.tell(session, invoice, "invoice.overdue", attempt=step.ordinal, next_attempt_at=next_at)
    if step.action == "write_off":
        _write_off(session, invoice)
    restate(session, invoice.organization_id)
    words = {**_words(session, invoice), "at": _threat(step, later)}
    _write(session, invoice.organization_id, _TEMPLATES[step.action], words)


def restate(session: Session, organization_id: UUID) -> None:
    """Let the standing be what done steps of unpaid invoices lead to; who is back in good standing is told."""
    billing.lock_standing(session, organization_id)
    actions = session.scalars(_ACTIONS, {"organization_id": organization_id}).all()
    standing = rules.standing(actions)
    if billing.set_standing(session, organization_id, standing) and standing == "good":
        name = organizations.get(session, organization_id).name
        _write(session, organization_id, "reinstated", {"organization": name})


def _write_off(session: Session, invoice: Invoice) -> None:
    billing.mark_uncollectible(session, invoice.organization_id, invoice.id)
    with suppress(billing.SamePlan):  # it owes usage only
        billing.change_plan(session, invoice.organization_id, "free", "now", audit.SYSTEM)
    words = _words(session, invoice)
    detail = "{number} of {organization}: {amount} {currency} were not paid.".format(**words)
    for user, _ in users.operators(session):
        mail.send(session, "operator_alert", user.email, subject_line="an invoice is written off", detail=detail)


def _words(session: Session, invoice: Invoice) -> dict[str, object]:
    return {
        "organization": organizations.get(session, invoice.organization_id).name,
        "number": invoice.number,
        "amount": minor_to_text(billing.outstanding(invoice), invoice.currency),
        "currency": invoice.currency,
        "due": invoice.due_at,
        "invoice_id": wire_id("inv", invoice.id),
    }


def _threat(step: DunningStep, later: Sequence[DunningStep]) -> object:
    """When what a mail warns of comes: after a warning the restriction, after that the suspension."""
    threat = {"warn": "restrict", "restrict": "suspend"}.get(step.action)
    return next((following.run_at for following in later if following.action == threat), None)


def _write(session: Session, organization_id: UUID, template: str, words: dict[str, object]) -> None:
    for reader in organization_queries.recipients(session, organization_id, _READERS, is_bill=True):
        mail.send(session, template, reader.email, organization_id=organization_id, name=reader.name, **words)
