"""Plan, run and end dunning runs; effects of each step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import TextClause, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts import members, operators, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import events, invoices, profiles, subscriptions
from saas_api.billing.models import Invoice
from saas_api.billing.subscriptions import AlreadyOnPlan
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.mail import mails
from saas_api.payments import dunning_schedule
from saas_api.payments.models import DunningRun, DunningStep

log = get_logger(__name__)

StepAnswer = TypeVar("StepAnswer")

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


def perform_step(session: Session, invoice: Invoice, step: DunningStep, later: Sequence[DunningStep]) -> None:
    """Do what a step says; its row says already that it is done.

    later: the steps that are still to come
    """
    next_at = later[0].run_at if later else None
    if step.ordinal == 1:
        events.publish_invoice_event(session, invoice, "invoice.overdue", attempt=step.ordinal, next_attempt_at=next_at)
    if step.action == "write_off":
        _write_off(session, invoice)
    recompute_standing(session, invoice.organization_id)
    words = {**_email_context(session, invoice), "at": _consequence_text(step, later)}
    _email(session, invoice.organization_id, _TEMPLATES[step.action], words)


def recompute_standing(session: Session, organization_id: UUID) -> None:
    """Let the standing be what done steps of unpaid invoices lead to; who is back in good standing is told."""
    profiles.lock_standing(session, organization_id)
    actions = session.scalars(_ACTIONS, {"organization_id": organization_id}).all()
    standing = dunning_schedule.standing_after(actions)
    if profiles.set_standing(session, organization_id, standing) and standing == "good":
        name = organizations.get(session, organization_id).name
        _email(session, organization_id, "reinstated", {"organization": name})


def _write_off(session: Session, invoice: Invoice) -> None:
    invoices.mark_uncollectible(session, invoice.organization_id, invoice.id)
    with suppress(AlreadyOnPlan):  # it owes usage only
        subscriptions.change_plan(session, invoice.organization_id, "free", "now", SYSTEM_ACTOR)
    words = _email_context(session, invoice)
    detail = "{number} of {organization}: {amount} {currency} were not paid.".format(**words)
    for user, _ in operators.list_operators(session):
        mails.enqueue(session, "operator_alert", user.email, subject_line="an invoice is written off", detail=detail)


def _email_context(session: Session, invoice: Invoice) -> dict[str, object]:
    return {
        "organization": organizations.get(session, invoice.organization_id).name,
        "number": invoice.number,
        "amount": money.format_minor(invoices.amount_due_minor(invoice), invoice.currency),
        "currency": invoice.currency,
        "due": invoice.due_at,
        "invoice_id": ids.format_id("inv", invoice.id),
    }


def _consequence_text(step: DunningStep, later: Sequence[DunningStep]) -> object:
    """When what a mail warns of comes: after a warning the restriction, after that the suspension."""
    threat = {"warn": "restrict", "restrict": "suspend"}.get(step.action)
    return next((following.run_at for following in later if following.action == threat), None)


def _email(session: Session, organization_id: UUID, template: str, words: dict[str, object]) -> None:
    for reader in members.list_recipients(session, organization_id, _READERS, includes_billing_email=True):
        mails.enqueue(session, template, reader.email, organization_id=organization_id, name=reader.name, **words)


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
# Who owes less than the minimum waits: a step that was waited with is late, and moves the later ones.
_DUE = f"""
SELECT DISTINCT r.organization_id, r.invoice_id FROM dunning_steps s
JOIN dunning_runs r ON r.organization_id = s.organization_id AND r.id = s.run_id
WHERE s.state = 'scheduled' AND s.run_at <= :at AND r.state = 'active' AND {_OVERDUE} >= :minimum"""
_ALL_DUE = text(_DUE)
_STILL_DUE = text(f"{_DUE} AND r.organization_id = :organization_id AND r.invoice_id = :invoice_id")
_LIST_RUNS = text("""
SELECT r.organization_id, i.number, i.due_minor, i.currency, i.due_at, u.standing, n.action AS next_action,
  n.run_at AS next_at
FROM dunning_runs r
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
JOIN subscriptions u ON u.organization_id = r.organization_id
LEFT JOIN LATERAL (SELECT action, run_at FROM dunning_steps s WHERE s.organization_id = r.organization_id
  AND s.run_id = r.id AND s.state = 'scheduled' ORDER BY s.ordinal LIMIT 1) n ON true
WHERE i.state IN ('open', 'uncollectible') ORDER BY i.due_at, i.number""")
_END_REASONS = {"paid": "recovered", "void": "stopped", "uncollectible": "exhausted"}


@dataclass(frozen=True)
class CompletedStep:
    """A step that was taken.

    number: of the invoice
    """

    organization_id: UUID
    number: str | None
    action: str


@dataclass
class DunningResult:
    """What a turn has done: pursuits it planned and ended, steps it took, invoices it could not finish."""

    planned: int = 0
    ended: int = 0
    done: list[CompletedStep] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class DunningRunView:
    """An invoice that is not settled, and the step that comes next.

    standing: of its organization
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


def run_dunning(at: datetime) -> DunningResult:
    """Plan the pursuit of every invoice that opened, end what was settled, and take every step that is due.

    at: taken for now; a trouble with one invoice does not hold up another
    """
    outcome = DunningResult()
    for owner, invoice_id in _list_due(_WITHOUT_RUN):
        outcome.planned += bool(_run_safely(outcome, _plan, owner, invoice_id, at))
    for owner, invoice_id in _list_due(_SETTLED):
        outcome.ended += bool(_run_safely(outcome, _end_settled, owner, invoice_id, at))
    for owner, invoice_id in _list_due(_ALL_DUE, at=at, minimum=setting("DUNNING_MINIMUM_MINOR")):
        while done := _run_safely(outcome, _take_step, owner, invoice_id, at):
            outcome.done.append(done)
    return outcome


def stop_if_settled(session: Session, organization_id: UUID, invoice_id: UUID) -> None:
    """Stop pursuing an invoice that is settled, and let its organization work again, in the same transaction.

    session: of the system; it holds the invoice's row
    raises: NotFound
    """
    session.flush()  # the invoice is read again
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status in _END_REASONS:
        _end(session, invoice, clock.now())


def list_dunning_runs() -> list[DunningRunView]:
    """Every invoice that is not settled, the one that was due first first."""
    with _transaction() as session:
        return [DunningRunView(*row) for row in session.execute(_LIST_RUNS)]


def _list_due(statement: TextClause, **values: object) -> list[tuple[UUID, UUID]]:
    with _transaction() as session:
        return [(owner, invoice_id) for owner, invoice_id in session.execute(statement, values)]


def _run_safely(
    outcome: DunningResult,
    work: Callable[[Session, Invoice, datetime], StepAnswer],
    organization_id: UUID,
    invoice_id: UUID,
    at: datetime,
) -> StepAnswer | None:
    try:
        with _transaction() as session:
            return work(session, invoices.lock_invoice(session, organization_id, invoice_id), at)
    except Exception:  # one invoice's trouble must not hold up another's pursuit
        log.exception("dunning_failed", organization_id=str(organization_id), invoice_id=str(invoice_id))
        outcome.failed.append(invoice_id)
        return None


def _transaction() -> AbstractContextManager[Session]:
    return tenancy.system_session("payments.dunning")


def _plan(session: Session, invoice: Invoice, at: datetime) -> bool:
    if invoice.status != "open" or invoice.due_at is None:
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


def _end_settled(session: Session, invoice: Invoice, at: datetime) -> bool:
    return invoice.status in _END_REASONS and _end(session, invoice, at)


def _end(session: Session, invoice: Invoice, at: datetime) -> bool:
    pursuit = _to_view(session, invoice)
    if pursuit is None or pursuit.state == _END_REASONS[invoice.status]:
        return False
    pursuit.state, pursuit.ended_at = _END_REASONS[invoice.status], at
    session.execute(
        update(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == pursuit.id)
        .where(DunningStep.state == "scheduled")
        .values(state="skipped", done_at=at)
    )
    session.flush()  # the standing follows from the rows
    recompute_standing(session, invoice.organization_id)
    return True


def _take_step(session: Session, invoice: Invoice, at: datetime) -> CompletedStep | None:
    pursuit = _to_view(session, invoice)
    if invoice.status != "open" or pursuit is None or not _is_due(session, invoice, at):
        return None
    step, *later = session.scalars(
        select(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == pursuit.id)
        .where(DunningStep.state == "scheduled")
        .order_by(DunningStep.ordinal)
    )
    late = dunning_schedule.later_steps_shift(step.run_at, at)
    for following in later:
        following.run_at += late
    step.state, step.done_at = "done", at
    if not later:
        pursuit.state, pursuit.ended_at = "exhausted", at
    session.flush()  # the standing follows from the rows
    perform_step(session, invoice, step, later)
    return CompletedStep(invoice.organization_id, invoice.number, step.action)


def _is_due(session: Session, invoice: Invoice, at: datetime) -> bool:
    values = {
        "at": at,
        "minimum": setting("DUNNING_MINIMUM_MINOR"),
        "organization_id": invoice.organization_id,
        "invoice_id": invoice.id,
    }
    return session.execute(_STILL_DUE, values).first() is not None


def _to_view(session: Session, invoice: Invoice) -> DunningRun | None:
    return session.scalars(
        select(DunningRun)
        .where(DunningRun.organization_id == invoice.organization_id, DunningRun.invoice_id == invoice.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
