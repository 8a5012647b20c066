"""Dunning: the pursuit of an unpaid invoice, planned as rows when it opens, done step by step when each is due.

Whoever acts locks the invoice first, then the pursuit, then the standing, as a settlement does; so each step is done
once, and none after the money came.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import TextClause, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.billing.models import Invoice
from saas_api.core import clock, tenancy
from saas_api.core.ids import new_id
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.payments.models import DunningRun, DunningStep
from saas_api.payments.rules import dunning as rules
from saas_api.payments.service.acting import act, restate

log = get_logger(__name__)

_OVERDUE = """(SELECT coalesce(sum(o.due_minor), 0) FROM invoices o
  WHERE o.organization_id = r.organization_id AND o.state = 'open' AND o.due_at <= :at)"""
_UNPLANNED = text("""
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
_PURSUED = text("""
SELECT r.organization_id, i.number, i.due_minor, i.currency, i.due_at, u.standing, n.action AS next_action,
  n.run_at AS next_at
FROM dunning_runs r
JOIN invoices i ON i.organization_id = r.organization_id AND i.id = r.invoice_id
JOIN subscriptions u ON u.organization_id = r.organization_id
LEFT JOIN LATERAL (SELECT action, run_at FROM dunning_steps s WHERE s.organization_id = r.organization_id
  AND s.run_id = r.id AND s.state = 'scheduled' ORDER BY s.ordinal LIMIT 1) n ON true
WHERE i.state IN ('open', 'uncollectible') ORDER BY i.due_at, i.number""")
_ENDS = {"paid": "recovered", "void": "stopped", "uncollectible": "exhausted"}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Done:
    """A step that was taken.

    number: of the invoice
    """

    organization_id: UUID
    number: str | None
    action: str


@dataclass
class Outcome:
    """What a turn has done: pursuits it planned and ended, steps it took, invoices it could not finish."""

    planned: int = 0
    ended: int = 0
    done: list[Done] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class Pursuit:
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


def run(at: datetime) -> Outcome:
    """Plan the pursuit of every invoice that opened, end what was settled, and take every step that is due.

    at: taken for now; a trouble with one invoice does not hold up another
    """
    outcome = Outcome()
    for owner, invoice_id in _found(_UNPLANNED):
        outcome.planned += bool(_safely(outcome, _plan, owner, invoice_id, at))
    for owner, invoice_id in _found(_SETTLED):
        outcome.ended += bool(_safely(outcome, _end_settled, owner, invoice_id, at))
    for owner, invoice_id in _found(_ALL_DUE, at=at, minimum=setting("DUNNING_MINIMUM_MINOR")):
        while done := _safely(outcome, _take_step, owner, invoice_id, at):
            outcome.done.append(done)
    return outcome


def after_payment(session: Session, organization_id: UUID, invoice_id: UUID) -> None:
    """Stop pursuing an invoice that is settled, and let its organization work again, in the same transaction.

    session: of the system; it holds the invoice's row
    raises: NotFound
    """
    session.flush()  # the invoice is read again
    invoice = billing.lock_invoice(session, organization_id, invoice_id)
    if invoice.state in _ENDS:
        _end(session, invoice, clock.now())


def pursued() -> list[Pursuit]:
    """Every invoice that is not settled, the one that was due first first."""
    with _transaction() as session:
        return [Pursuit(*row) for row in session.execute(_PURSUED)]


def _found(statement: TextClause, **values: object) -> list[tuple[UUID, UUID]]:
    with _transaction() as session:
        return [(owner, invoice_id) for owner, invoice_id in session.execute(statement, values)]


def _safely(
    outcome: Outcome,
    work: Callable[[Session, Invoice, datetime], Answer],
    organization_id: UUID,
    invoice_id: UUID,
    at: datetime,
) -> Answer | None:
    try:
        with _transaction() as session:
            return work(session, billing.lock_invoice(session, organization_id, invoice_id), at)
    except Exception:  # one invoice's trouble must not hold up another's pursuit
        log.exception("dunning_failed", organization_id=str(organization_id), invoice_id=str(invoice_id))
        outcome.failed.append(invoice_id)
        return None


def _transaction() -> AbstractContextManager[Session]:
    return tenancy.as_system("payments.dunning")


def _plan(session: Session, invoice: Invoice, at: datetime) -> bool:
    if invoice.state != "open" or invoice.due_at is None:
        return False
    steps = list(rules.steps(invoice.due_at))
    run_id = session.scalar(
        insert(DunningRun)
        .values(
            organization_id=invoice.organization_id,
            id=new_id(),
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
    return invoice.state in _ENDS and _end(session, invoice, at)


def _end(session: Session, invoice: Invoice, at: datetime) -> bool:
    pursuit = _pursuit(session, invoice)
    if pursuit is None or pursuit.state == _ENDS[invoice.state]:
        return False
    pursuit.state, pursuit.ended_at = _ENDS[invoice.state], at
    session.execute(
        update(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == pursuit.id)
        .where(DunningStep.state == "scheduled")
        .values(state="skipped", done_at=at)
    )
    session.flush()  # the standing follows from the rows
    restate(session, invoice.organization_id)
    return True


def _take_step(session: Session, invoice: Invoice, at: datetime) -> Done | None:
    pursuit = _pursuit(session, invoice)
    if invoice.state != "open" or pursuit is None or not _is_due(session, invoice, at):
        return None
    step, *later = session.scalars(
        select(DunningStep)
        .where(DunningStep.organization_id == invoice.organization_id, DunningStep.run_id == pursuit.id)
        .where(DunningStep.state == "scheduled")
        .order_by(DunningStep.ordinal)
    )
    late = rules.shift(step.run_at, at)
    for following in later:
        following.run_at += late
    step.state, step.done_at = "done", at
    if not later:
        pursuit.state, pursuit.ended_at = "exhausted", at
    session.flush()  # the standing follows from the rows
    act(session, invoice, step, later)
    return Done(invoice.organization_id, invoice.number, step.action)


def _is_due(session: Session, invoice: Invoice, at: datetime) -> bool:
    values = {
        "at": at,
        "minimum": setting("DUNNING_MINIMUM_MINOR"),
        "organization_id": invoice.organization_id,
        "invoice_id": invoice.id,
    }
    return session.execute(_STILL_DUE, values).first() is not None


def _pursuit(session: Session, invoice: Invoice) -> DunningRun | None:
    return session.scalars(
        select(DunningRun)
        .where(DunningRun.organization_id == invoice.organization_id, DunningRun.invoice_id == invoice.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
