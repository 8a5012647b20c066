"""Closing of billing periods: end what is due, or end the current period now, and invoice what is closed."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.billing import batch_invoicing, bill_inputs, invoice_lifecycle, periods, subscriptions
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingPeriod, Invoice, InvoiceStatus, PeriodStatus, Subscription
from saas_api.billing.rating import bill, period_grid
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD
from saas_api.core import clock, ids, time_zones
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.usage import ledger

log = get_logger(__name__)


@dataclass
class CloseResult:
    """Number of closed periods, the invoices of them and of periods closed earlier, and organizations that failed.

    is_dry: the invoices would be written, and nothing was
    """

    closed: int = 0
    invoices: list[InvoiceWithPeriod] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)
    is_dry: bool = False


def close_due(at: datetime, organization_id: UUID | None = None) -> CloseResult:
    """Close periods that ended a grace period before `at`, and invoice every closed period.

    Organizations share transactions; what a batch leaves out, because it failed or waits for another process, is done
    singly. The failure of one organization does not stop the others.

    organization_id: None for all
    """
    result = CloseResult()
    for batch in _split(_list_due(at, [organization_id] if organization_id else None)):
        rest = batch
        if len(batch) > 1:
            _close_batch(batch, at, result)
            rest = _list_due(at, batch)
        for due in rest:
            _close_singly(due, at, result)
    return result


BATCH_SIZE = 50
"""Organizations that share a transaction."""


def _split(organization_ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(organization_ids), BATCH_SIZE):
        yield organization_ids[start : start + BATCH_SIZE]


def _close_batch(organization_ids: Sequence[UUID], at: datetime, result: CloseResult) -> None:
    """Close and invoice several organizations; leaves out what a transaction for all does not suit."""
    try:
        result.closed += _close_ended_in_batch(organization_ids, at)
        fault_point("billing.after_close")
        while invoices := _invoice_batch(organization_ids):
            result.invoices += invoices
            fault_point("billing.after_invoice_commit")
    except Exception:
        log.exception("billing_batch_failed", organizations=len(organization_ids))


def _close_singly(organization_id: UUID, at: datetime, result: CloseResult) -> None:
    try:
        result.closed += _close_ended_periods(organization_id, at)
        for invoice in _invoice_closed_periods(organization_id):
            result.invoices.append(invoice)  # counts also if a later period of the organization fails
    except Exception:
        log.exception("billing_close_failed", organization_id=str(organization_id))
        result.failed.append(organization_id)


REPEAT_WINDOW = timedelta(hours=1)
"""Time after an early end of a period in which another request to end the current one counts as a repeat."""


def close_now(organization_id: UUID, *, is_repeat_ignored: bool = False) -> CloseResult:
    """End the current period now, without grace, and invoice every closed period.

    is_repeat_ignored: leave a period open that has no usage and began less than `REPEAT_WINDOW` ago with an early end
        of the one before it; a request that is repeated because its response was lost must not create another invoice
    raises: OrganizationNotFound
    """
    with tenancy.system_session("billing.close") as session:
        periods.lock_periods(session, organization_id)
        at = clock.now()
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, at)
        closed = end_periods(session, organization_id, at, is_repeat_ignored=is_repeat_ignored)
        if closed:
            organizations.bump_generation(session, organization_id)
    fault_point("billing.after_close")
    return CloseResult(closed, invoice_closed_periods(organization_id))


def end_periods(session: SystemSession, organization_id: UUID, at: datetime, *, is_repeat_ignored: bool = False) -> int:
    """Close the periods that have ended and the current one, which ends at an instant.

    session: holds the exclusive period lock
    is_repeat_ignored: as of `close_now`
    returns: number of closed periods
    """
    closed = _close_through(session, organization_id, at)
    if _find_started_period(session, organization_id, at, is_repeat_ignored=is_repeat_ignored):
        closed += _end_current_period(session, organization_id, at)
    return closed


def invoice_closed_periods(organization_id: UUID) -> list[InvoiceWithPeriod]:
    """Invoice every closed period of an organization, each in a transaction of its own."""
    return list(_invoice_closed_periods(organization_id))


def preview_due(at: datetime, organization_id: UUID | None = None) -> list[InvoiceWithPeriod]:
    """The invoices that `close_due` would create, in their order; stores nothing."""
    invoices: list[InvoiceWithPeriod] = []
    for batch in _split(_list_due(at, [organization_id] if organization_id else None)):
        by_organization = [_preview_ended(due, at) for due in batch]
        for nth in itertools.zip_longest(*by_organization):  # the first period of each, then the second
            invoices += filter(None, nth)
    return invoices


def _preview_ended(organization_id: UUID, at: datetime) -> list[InvoiceWithPeriod]:
    with tenancy.tenant_session(organization_id) as session:
        ended = _list_uninvoiced(session, organization_id, _after_grace(at))
        return [_preview(session, period, period.ends_at) for period in ended]


def preview_now(organization_id: UUID, *, is_repeat_ignored: bool = False) -> list[InvoiceWithPeriod]:
    """The invoices that `close_now` would create; stores nothing.

    raises: OrganizationNotFound
    """
    at = clock.now()
    with tenancy.tenant_session(organization_id) as session:
        organizations.get_organization(session, organization_id)
        ended = _list_uninvoiced(session, organization_id, at)
        invoices = [_preview(session, period, period.ends_at) for period in ended]
        if period := _find_started_period(session, organization_id, at, is_repeat_ignored=is_repeat_ignored):
            invoices.append(_preview(session, period, at))
    return invoices


# Most periods end at the same instant. The id keeps their order the same in each run and preview, so that a run after
# a killed one invoices first what that one closed.
# What follows the end of a subscription is invoiced only if late usage or a reversal came after it.
_DUE = text("""
SELECT organization_id FROM billing_periods p
WHERE (state = 'closed' OR state = 'open' AND ends_at <= :through AND (
    NOT EXISTS (SELECT FROM subscriptions s WHERE s.organization_id = p.organization_id AND s.ended_at <= p.starts_at)
    OR EXISTS (SELECT FROM usage_events e WHERE e.organization_id = p.organization_id AND e.billing_period_id = p.id
      AND e.month = p.month)))
  AND (CAST(:chosen AS uuid[]) IS NULL OR organization_id = ANY (:chosen))
GROUP BY organization_id ORDER BY min(ends_at), organization_id""")


def _list_due(at: datetime, chosen: Sequence[UUID] | None = None) -> Sequence[UUID]:
    """Organizations with a period to close or to invoice, in the order of their invoices.

    chosen: of these; None for all
    """
    with tenancy.system_session("billing.due") as session:
        values = {"through": _after_grace(at), "chosen": None if chosen is None else list(chosen)}
        return session.execute(_DUE, values).scalars().all()


def get_invoicing_time(period: BillingPeriod) -> datetime:
    """The earliest instant at which a period is invoiced by itself."""
    return period.ends_at + timedelta(minutes=setting("BILLING_GRACE_MINUTES"))


def _after_grace(at: datetime) -> datetime:
    """The latest end of a period that is closed at an instant."""
    return at - timedelta(minutes=setting("BILLING_GRACE_MINUTES"))


def _close_ended_in_batch(organization_ids: Sequence[UUID], at: datetime) -> int:
    """Close the ended periods of several organizations, without those that another process works on."""
    with tenancy.system_session("billing.close") as session:
        locked = periods.try_lock_periods(session, organization_ids, at)
        values = {"organizations": list(locked), "through": _after_grace(at)}
        closed = session.scalars(_CLOSE_ENDED, values).all()
        organizations.bump_generations(session, set(closed))
        fault_point("billing.in_close")
    return len(closed)


def _close_ended_periods(organization_id: UUID, at: datetime) -> int:
    with tenancy.system_session("billing.close") as session:
        periods.lock_periods(session, organization_id)
        periods.ensure_period(session, organization_id, at)
        closed = _close_through(session, organization_id, _after_grace(at))
        if closed:
            organizations.bump_generation(session, organization_id)
        fault_point("billing.in_close")
    fault_point("billing.after_close")
    return closed


_CLOSE_ENDED = text("""UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp()
  WHERE organization_id = ANY (:organizations) AND state = 'open' AND ends_at <= :through RETURNING organization_id""")


def _close_through(session: SystemSession, organization_id: UUID, through: datetime) -> int:
    return len(session.scalars(_CLOSE_ENDED, {"organizations": [organization_id], "through": through}).all())


def _find_started_period(
    session: Session, organization_id: UUID, at: datetime, *, is_repeat_ignored: bool
) -> BillingPeriod | None:
    """The current period, unless it starts at this very instant and could not be ended, or to end it is a repeat."""
    period = periods.find_current_period(session, organization_id, at)
    if period is None or period.starts_at == at:
        return None
    if not is_repeat_ignored or period.starts_at <= at - REPEAT_WINDOW:
        return period
    is_after_early_end = session.scalar(
        select(BillingPeriod.is_ended_early).where(
            BillingPeriod.organization_id == organization_id, BillingPeriod.seq == period.previous_seq
        )
    )
    return None if is_after_early_end and not ledger.has_usage(session, organization_id, period.id) else period


# Both rows in one statement: the chain of periods is checked at its end.
_END_PERIOD_NOW = text("""
WITH k AS (SELECT seq FROM billing_periods
           WHERE organization_id = :organization_id AND state = 'open' AND starts_at < :at AND ends_at > :at)
UPDATE billing_periods p SET is_cut = p.is_cut OR p.seq = k.seq,
  ends_at = CASE p.seq WHEN k.seq THEN :at ELSE p.ends_at END,
  starts_at = CASE p.seq WHEN k.seq THEN p.starts_at ELSE :at END
FROM k WHERE p.organization_id = :organization_id AND p.seq IN (k.seq, k.seq + 1)""")
_OPEN_NEXT_PERIOD = text("""
INSERT INTO billing_periods (organization_id, id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone)
SELECT organization_id, :next, subscription_id, seq + 1, ends_at, :next_end, :next_nominal, :timezone
FROM billing_periods WHERE organization_id = :organization_id AND ends_at = :at
ON CONFLICT (organization_id, seq) DO NOTHING""")


def _end_current_period(session: SystemSession, organization_id: UUID, at: datetime) -> int:
    organization = organizations.get_organization(session, organization_id)
    zone = time_zones.get_zone(organization.timezone)
    anchor_day = session.scalars(
        select(Subscription.anchor_day).where(Subscription.organization_id == organization_id)
    ).one()
    next_end = period_grid.next_period_end(at, anchor_day, zone, MIN_FIRST_PERIOD)
    values = {
        "organization_id": organization_id,
        "at": at,
        "next": ids.new_id(),
        "next_end": next_end,
        "next_nominal": period_grid.nominal_seconds(at, next_end, anchor_day, zone),
        "timezone": organization.timezone,
    }
    session.execute(_END_PERIOD_NOW, values)
    session.execute(_OPEN_NEXT_PERIOD, values)
    return _close_through(session, organization_id, at)


def _invoice_batch(organization_ids: Sequence[UUID]) -> list[InvoiceWithPeriod]:
    with tenancy.system_session("billing.close") as session:
        return batch_invoicing.invoice_next_periods(session, organization_ids)


def _invoice_closed_periods(organization_id: UUID) -> Iterator[InvoiceWithPeriod]:
    while invoice := _invoice_next_period(organization_id):
        fault_point("billing.after_invoice_commit")
        yield invoice


def _invoice_next_period(organization_id: UUID) -> InvoiceWithPeriod | None:
    """Invoice the earliest closed period, or put billing on hold if it cannot be calculated."""
    try:
        with tenancy.system_session("billing.close") as session:
            return invoice_lifecycle.invoice_next_period(session, organization_id)
    except invoice_lifecycle.CALCULATION_ERRORS as error:
        log.exception("billing_period_not_calculated", organization_id=str(organization_id))
        problem = type(error).__name__
    with tenancy.system_session("billing.close") as session:
        return invoice_lifecycle.hold_next_period(session, organization_id, problem)


def _list_uninvoiced(session: Session, organization_id: UUID, through: datetime) -> Sequence[BillingPeriod]:
    return session.scalars(
        select(BillingPeriod)
        .where(BillingPeriod.organization_id == organization_id, BillingPeriod.status != PeriodStatus.INVOICED)
        .where((BillingPeriod.ends_at <= through) | (BillingPeriod.status == PeriodStatus.CLOSED))
        .order_by(BillingPeriod.seq)
    ).all()


def _preview(session: Session, period: BillingPeriod, ends_at: datetime) -> InvoiceWithPeriod:
    """A draft that is not stored and has neither id nor number."""
    tenancy.allow_long_statements(session)  # meters that do not add up are read from the ledger
    usage = bill_inputs.get_live_usage(session, period, subscriptions.list_segments(session, period.organization_id))
    period_bill = bill.calculate_bill(bill_inputs.get_period_inputs(session, period, ends_at, usage))
    draft = Invoice(
        organization_id=period.organization_id,
        status=InvoiceStatus.DRAFT,
        currency=period_bill.currency,
        total_minor=period_bill.total_minor,
        credits_applied_minor=0,
        reduced_minor=0,
        paid_minor=0,
    )
    return InvoiceWithPeriod(draft, period)
