"""Dunning of unpaid invoices: plans runs, takes due steps with their effects, and ends runs of settled invoices."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import TextClause, select, text, update
from sqlalchemy.dialects.postgresql import insert

from saas_api.accounts import members, operators, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import events as billing_events
from saas_api.billing import invoices, profiles, settlement, subscriptions
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingStanding, Invoice, InvoiceStatus
from saas_api.billing.plans import DEFAULT_PLAN
from saas_api.billing.subscriptions import AlreadyOnPlan
from saas_api.core import clock, formatting, ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.mail import mails
from saas_api.payments import dunning_schedule
from saas_api.payments.dunning_schedule import DunningAction
from saas_api.payments.events import BILLING_CONTACT_ROLES
from saas_api.payments.models import DunningRun, DunningRunStatus, DunningStep, DunningStepStatus

log = get_logger(__name__)

Result = TypeVar("Result")

_TEMPLATES = {
    DunningAction.REMIND: "overdue_remind",
    DunningAction.WARN: "overdue_warn",
    DunningAction.RESTRICT: "restricted",
    DunningAction.SUSPEND: "suspended",
    DunningAction.WRITE_OFF: "written_off",
}
_END_STATUSES = {
    InvoiceStatus.PAID: DunningRunStatus.RECOVERED,
    InvoiceStatus.VOID: DunningRunStatus.STOPPED,
    InvoiceStatus.UNCOLLECTIBLE: DunningRunStatus.EXHAUSTED,
}
"""Status of a dunning run by the status of its invoice."""


@dataclass(frozen=True)
class CompletedStep:
    """A dunning step that was taken.

    number: of the invoice
    """

    organization_id: UUID
    number: str | None
    action: DunningAction


@dataclass
class DunningResult:
    """Result of one execution: runs planned and ended, steps taken, and ids of invoices that raised an error."""

    planned: int = 0
    ended: int = 0
    done: list[CompletedStep] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class DunningRunView:
    """An unpaid invoice in dunning, and its next step.

    standing: of the organization
    next_action, next_at: None when no step is left
    """

    organization_id: UUID
    number: str
    due_minor: int
    currency: str
    due_at: datetime
    standing: str
    next_action: str | None
    next_at: datetime | None


_LIST_RUNS = text("""
SELECT r.organization_id, i.number, i.due_minor, i.currency, i.due_at, u.standing, n.action AS next_action,
  n.run_at AS next_at
FROM dunning_runs r
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
JOIN subscriptions u ON u.organization_id = r.organization_id
LEFT JOIN LATERAL (SELECT action, run_at FROM dunning_steps s WHERE s.organization_id = r.organization_id
  AND s.run_id = r.id AND s.state = 'scheduled' ORDER BY s.ordinal LIMIT 1) n ON true
WHERE i.state IN ('open', 'uncollectible') ORDER BY i.due_at, i.number""")


def list_dunning_runs() -> list[DunningRunView]:
    """Every unpaid invoice in dunning, by due date, in a transaction of its own."""
    with _transaction() as session:
        return [DunningRunView(*row) for row in session.execute(_LIST_RUNS)]


_OVERDUE = """(SELECT coalesce(sum(o.due_minor), 0) FROM invoices o
  WHERE o.organization_id = r.organization_id AND o.state = 'open' AND o.due_at <= :at)"""
_WITHOUT_RUN = text("""
SELECT i.organization_id, i.id FROM invoices i
WHERE i.state = 'open' AND NOT EXISTS (
  SELECT FROM dunning_runs r WHERE r.organization_id = i.organization_id AND r.invoice_id = i.id)""")
_SETTLED = text("""
SELECT r.organization_id, r.invoice_id FROM dunning_runs r
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
WHERE r.state = 'active' AND i.state <> 'open' OR r.state = 'exhausted' AND i.state IN ('paid', 'void')""")
# Steps wait while the organization owes less than the minimum. A step that waited is late and moves the later ones.
_DUE_INVOICES = f"""
SELECT DISTINCT r.organization_id, r.invoice_id FROM dunning_steps s
JOIN dunning_runs r ON r.organization_id = s.organization_id AND r.id = s.run_id
WHERE s.state = 'scheduled' AND s.run_at <= :at AND r.state = 'active' AND {_OVERDUE} >= :minimum"""
_DUE = text(_DUE_INVOICES)
_STILL_DUE = text(f"{_DUE_INVOICES} AND r.organization_id = :organization_id AND r.invoice_id = :invoice_id")


def run_dunning(at: datetime) -> DunningResult:
    """Plan runs of new open invoices, end runs of settled ones, and take the due steps, in transactions of its own.

    An error of one invoice does not stop the others.
    at: current time
    """
    result = DunningResult()
    for organization_id, invoice_id in _list_invoices(_WITHOUT_RUN):
        result.planned += bool(_run_safely(result, _plan, organization_id, invoice_id, at))
    for organization_id, invoice_id in _list_invoices(_SETTLED):
        result.ended += bool(_run_safely(result, _end_settled, organization_id, invoice_id, at))
    for organization_id, invoice_id in _list_invoices(_DUE, at=at, minimum=setting("DUNNING_MINIMUM_MINOR")):
        while step := _run_safely(result, _take_step, organization_id, invoice_id, at):
            result.done.append(step)
    return result


def follow_invoice(session: SystemSession, invoice: Invoice) -> None:
    """End the dunning run of an invoice that is settled, and restore the standing of its organization.

    A run that had recovered goes on when the payment was withdrawn by a dispute.
    A rest below the minimum does not end the run, but it does not count for the standing.
    """
    if invoice.status == InvoiceStatus.OPEN:
        _resume(session, invoice)
    if invoice.status not in _END_STATUSES or not _end(session, invoice, clock.now()):
        _recompute_standing(session, invoice.organization_id)


def _list_invoices(statement: TextClause, **values: object) -> list[tuple[UUID, UUID]]:
    with _transaction() as session:
        return [(organization_id, invoice_id) for organization_id, invoice_id in session.execute(statement, values)]


def _run_safely(
    result: DunningResult,
    work: Callable[[SystemSession, Invoice, datetime], Result],
    organization_id: UUID,
    invoice_id: UUID,
    at: datetime,
) -> Result | None:
    try:
        with _transaction() as session:
            return work(session, invoices.lock_invoice(session, organization_id, invoice_id), at)
    except Exception:  # one invoice must not stop the others
        log.exception("dunning_failed", organization_id=str(organization_id), invoice_id=str(invoice_id))
        result.failed.append(invoice_id)
        return None


def _transaction() -> AbstractContextManager[SystemSession]:
    return tenancy.system_session("payments.dunning")


def _plan(session: SystemSession, invoice: Invoice, at: datetime) -> bool:
    if invoice.status != InvoiceStatus.OPEN or invoice.due_at is None:
        return False
    steps = list(dunning_schedule.plan_steps(invoice.due_at))
    run_id = session.scalar(
        insert(DunningRun)
        .values(
            organization_id=invoice.organization_id,
            id=ids.new_id(),
            invoice_id=invoice.id,
            policy={"steps": [[step.day, step.action] for step in steps]},
            started_at=at,
        )
        .on_conflict_do_nothing(index_elements=["organization_id", "invoice_id"])
        .returning(DunningRun.id)
    )
    if run_id is None:
        return False
    session.add_all(
        DunningStep(
            organization_id=invoice.organization_id,
            run_id=run_id,
            ordinal=step.ordinal,
            day=step.day,
            run_at=step.run_at,
            action=step.action,
        )
        for step in steps
    )
    return True


def _end_settled(session: SystemSession, invoice: Invoice, at: datetime) -> bool:
    return invoice.status in _END_STATUSES and _end(session, invoice, at)


def _end(session: SystemSession, invoice: Invoice, at: datetime) -> bool:
    run = _lock_run(session, invoice)
    status = _END_STATUSES[invoice.status]
    if run is None or run.status == status:
        return False
    run.status, run.ended_at = status, at
    session.execute(
        update(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == run.id)
        .where(DunningStep.status == DunningStepStatus.SCHEDULED)
        .values(status=DunningStepStatus.SKIPPED, done_at=at)
    )
    session.flush()  # _recompute_standing reads the rows
    _recompute_standing(session, invoice.organization_id)
    return True


def _resume(session: SystemSession, invoice: Invoice) -> None:
    run = _lock_run(session, invoice)
    if run is None or run.status != DunningRunStatus.RECOVERED:
        return
    run.status, run.ended_at = DunningRunStatus.ACTIVE, None
    session.execute(
        update(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == run.id)
        .where(DunningStep.status == DunningStepStatus.SKIPPED)
        .values(status=DunningStepStatus.SCHEDULED, done_at=None)
    )
    session.flush()  # _recompute_standing reads the rows


def _take_step(session: SystemSession, invoice: Invoice, at: datetime) -> CompletedStep | None:
    settlement.finish(session, invoice.organization_id)
    run = _lock_run(session, invoice)
    if invoice.status != InvoiceStatus.OPEN or run is None or not _is_due(session, invoice, at):
        return None
    step, *later = session.scalars(
        select(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == run.id)
        .where(DunningStep.status == DunningStepStatus.SCHEDULED)
        .order_by(DunningStep.ordinal)
    )
    delay = dunning_schedule.later_steps_shift(step.run_at, at)
    for following in later:
        following.run_at += delay
    step.status, step.done_at = DunningStepStatus.DONE, at
    if not later:
        run.status, run.ended_at = DunningRunStatus.EXHAUSTED, at
    session.flush()  # _recompute_standing reads the rows
    _perform_step(session, invoice, step, later)
    return CompletedStep(invoice.organization_id, invoice.number, step.action)


def _is_due(session: SystemSession, invoice: Invoice, at: datetime) -> bool:
    values = {
        "at": at,
        "minimum": setting("DUNNING_MINIMUM_MINOR"),
        "organization_id": invoice.organization_id,
        "invoice_id": invoice.id,
    }
    return session.execute(_STILL_DUE, values).first() is not None


def _lock_run(session: SystemSession, invoice: Invoice) -> DunningRun | None:
    return session.scalars(
        select(DunningRun)
        .where(DunningRun.organization_id == invoice.organization_id, DunningRun.invoice_id == invoice.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()


_DONE_ACTIONS = text("""
SELECT s.action FROM dunning_steps s
JOIN dunning_runs r ON r.organization_id = s.organization_id AND r.id = s.run_id
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
WHERE r.organization_id = :organization_id AND s.state = 'done' AND i.state IN ('open', 'uncollectible')
  AND (SELECT sum(o.due_minor) FROM invoices o WHERE o.organization_id = :organization_id
    AND o.state IN ('open', 'uncollectible') AND EXISTS (SELECT FROM dunning_runs u
      JOIN dunning_steps d ON d.organization_id = u.organization_id AND d.run_id = u.id
      WHERE u.organization_id = o.organization_id AND u.invoice_id = o.id AND d.state = 'done')) >= :minimum
UNION ALL
SELECT 'restrict' FROM payments p JOIN invoices i ON i.organization_id = p.organization_id AND i.id = p.invoice_id
WHERE p.organization_id = :organization_id AND p.disputed_minor > 0 AND i.state IN ('open', 'uncollectible')
  AND i.due_minor >= :minimum""")


def _perform_step(session: SystemSession, invoice: Invoice, step: DunningStep, later: Sequence[DunningStep]) -> None:
    """Perform the effects of a dunning step: an event, the standing, the write-off, and a mail.

    step: already stored as done
    later: the steps that follow
    """
    next_at = later[0].run_at if later else None
    if step.ordinal == 1:
        billing_events.publish_invoice_event(
            session, invoice, "invoice.overdue", attempt=step.ordinal, next_attempt_at=next_at
        )
    if step.action == DunningAction.WRITE_OFF:
        _write_off(session, invoice)
    _recompute_standing(session, invoice.organization_id)
    context = _email_context(session, invoice, _consequence_at(step, later))
    _email_contacts(session, invoice.organization_id, _TEMPLATES[step.action], context)


def _recompute_standing(session: SystemSession, organization_id: UUID) -> None:
    """Set the standing that the done steps of unpaid invoices lead to. Sends a mail when it is good again."""
    profiles.lock_standing(session, organization_id)
    values = {"organization_id": organization_id, "minimum": setting("DUNNING_MINIMUM_MINOR")}
    actions = session.scalars(_DONE_ACTIONS, values).all()
    standing = BillingStanding(dunning_schedule.standing_after(actions))
    if profiles.set_standing(session, organization_id, standing) and standing == BillingStanding.GOOD:
        name = organizations.get_organization(session, organization_id).name
        _email_contacts(session, organization_id, "reinstated", {"organization": name})


def _write_off(session: SystemSession, invoice: Invoice) -> None:
    invoices.mark_uncollectible(session, invoice.organization_id, invoice.id)
    with suppress(AlreadyOnPlan):  # the invoice was for usage on the free plan
        subscriptions.change_plan(session, invoice.organization_id, DEFAULT_PLAN, "now", SYSTEM_ACTOR)
    context = _email_context(session, invoice)
    detail = "{number} of {organization}: {amount} was not paid.".format(**context)
    operators.send_alert(session, "an invoice is written off", detail)


def _email_context(
    session: SystemSession, invoice: Invoice, consequence_at: datetime | None = None
) -> dict[str, object]:
    dated = InvoiceWithPeriod(invoice, invoices.get_period(session, invoice))
    with organizations.localized(session, invoice.organization_id) as organization:
        return {
            "organization": organization.name,
            "number": invoice.number,
            "amount": formatting.format_money(invoice.amount_due_minor, invoice.currency),
            "due": dated.due_day,
            "at": mails.format_time(consequence_at, dated.timezone) if consequence_at else "",
            "invoice_id": ids.format_id("inv", invoice.id),
        }


def _consequence_at(step: DunningStep, later: Sequence[DunningStep]) -> datetime | None:
    """Time of what the mail warns of: the restriction after a warning, the suspension after the restriction."""
    consequences = {DunningAction.WARN: DunningAction.RESTRICT, DunningAction.RESTRICT: DunningAction.SUSPEND}
    consequence = consequences.get(step.action)
    return next((following.run_at for following in later if following.action == consequence), None)


def _email_contacts(session: SystemSession, organization_id: UUID, template: str, context: dict[str, object]) -> None:
    for contact in members.list_recipients(
        session, organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True
    ):
        mails.enqueue(session, template, contact.email, organization_id=organization_id, name=contact.name, **context)
