"""Closing a period and invoicing it: two transactions, each of which happens once, whoever runs them.

The first takes the period lock exclusively, so no usage is under way while a period closes; the second claims what is
closed. Killed in between, the next run invoices.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, Subscription
from saas_api.billing.queries.inputs import find_running, period_inputs
from saas_api.billing.rules import periods
from saas_api.billing.rules.bill import invoice_draft
from saas_api.billing.service.invoicing.invoices import Summary, invoice_next
from saas_api.billing.service.periods import ensure_account, ensure_period, follow_zone
from saas_api.core import clock, tenancy
from saas_api.core.ids import new_id
from saas_api.core.observe import fault, get_logger
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations

log = get_logger(__name__)

AHEAD = timedelta(days=3)
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:organization, 1))")
_CLOSE_ENDED = text("""UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp()
  WHERE organization_id = :organization_id AND state = 'open' AND ends_at <= :through""")
# Both rows in one statement: the chain of periods is checked at its end.
_CUT = text("""
WITH k AS (SELECT seq FROM billing_periods
           WHERE organization_id = :organization_id AND state = 'open' AND starts_at < :at AND ends_at > :at)
UPDATE billing_periods p SET is_cut = p.is_cut OR p.seq = k.seq,
  ends_at = CASE p.seq WHEN k.seq THEN :at ELSE p.ends_at END,
  starts_at = CASE p.seq WHEN k.seq THEN p.starts_at ELSE :at END
FROM k WHERE p.organization_id = :organization_id AND p.seq IN (k.seq, k.seq + 1)""")
_SUCCEED = text("""
INSERT INTO billing_periods (organization_id, id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone)
SELECT organization_id, :next, subscription_id, seq + 1, ends_at, :next_end, :next_nominal, :timezone
FROM billing_periods WHERE organization_id = :organization_id AND ends_at = :at
ON CONFLICT (organization_id, seq) DO NOTHING""")
_DUE = text("""
SELECT organization_id FROM billing_periods
WHERE (state = 'closed' OR state = 'open' AND ends_at <= :through)
  AND (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)
GROUP BY organization_id ORDER BY min(ends_at)""")
_IN_OTHER_ZONE = text("""
SELECT o.id FROM organizations o JOIN LATERAL (
  SELECT starts_at, timezone FROM billing_periods p WHERE p.organization_id = o.id ORDER BY seq DESC LIMIT 1) p ON true
WHERE p.starts_at > :at AND p.timezone <> o.timezone
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)""")
_IN_NEED = text("""
SELECT o.id FROM organizations o
WHERE o.status <> 'closed' AND o.closed_at IS NULL
  AND NOT EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = o.id AND p.ends_at > :until)
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)""")


@dataclass
class Outcome:
    """What a run has done: periods it closed, invoices it wrote, organizations it could not finish."""

    closed: int = 0
    invoices: list[Summary] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)


def keep_accounts(at: datetime, organization_id: UUID | None = None) -> None:
    """Give every organization its account, and its next period three days before that begins, in its present zone.

    organization_id: None for all
    """
    values = {"until": at + AHEAD, "at": at, "organization_id": organization_id}
    with tenancy.as_system("billing.account") as session:
        in_need = session.execute(_IN_NEED, values).scalars().all()
        in_other_zone = session.execute(_IN_OTHER_ZONE, values).scalars().all()
    for found in in_other_zone:
        _cut_anew(found, at)
    for found in in_need:
        try:
            with tenancy.transaction(found) as session:
                ensure_account(session, found)
                ensure_period(session, found, at + AHEAD)
        except Exception:
            log.exception("billing_account_failed", organization_id=str(found))


def _cut_anew(organization_id: UUID, at: datetime) -> None:
    """Let a period that has not begun end in the organization's present zone; one that has begun keeps its bounds."""
    try:
        with tenancy.as_system("billing.close") as session:
            _lock(session, organization_id)
            follow_zone(session, organization_id, at)
    except Exception:
        log.exception("billing_zone_failed", organization_id=str(organization_id))


def close_due(
    at: datetime, organization_id: UUID | None = None, over: Callable[[Sequence[UUID]], Iterable[UUID]] = iter
) -> Outcome:
    """Close what ended a grace period before `at`, and invoice everything that is closed.

    organization_id: None for all; the failure of one organization does not hold up another
    over: goes through the organizations, and may show how far it is
    """
    outcome = Outcome()
    for due in over(_due(at, organization_id)):
        try:
            outcome.closed += _close_ended(due, at)
            outcome.invoices += _invoice_closed(due)
        except Exception:
            log.exception("billing_close_failed", organization_id=str(due))
            outcome.failed.append(due)
    return outcome


def close_now(organization_id: UUID) -> Outcome:
    """End the running period at this moment, without grace, and invoice everything that is closed.

    raises: NoSuchOrganization
    """
    with tenancy.as_system("billing.close") as session:
        _lock(session, organization_id)
        at = clock.now()
        ensure_account(session, organization_id)
        ensure_period(session, organization_id, at)
        closed = _close(session, organization_id, at)
        if _has_begun(session, organization_id, at):
            closed += _cut(session, organization_id, at)
        if closed:
            organizations.changed(session, organization_id)
    fault("billing.after_close")
    return Outcome(closed, _invoice_closed(organization_id))


def drafts_due(at: datetime, organization_id: UUID | None = None) -> list[Summary]:
    """The invoices that `close_due` would write; nothing is written."""
    drafts: list[Summary] = []
    for due in _due(at, organization_id):
        with tenancy.transaction(due) as session:
            drafts += [_draft(session, period, period.ends_at) for period in _ended(session, due, _through(at))]
    return drafts


def drafts_now(organization_id: UUID) -> list[Summary]:
    """The invoices that `close_now` would write; nothing is written.

    raises: NoSuchOrganization
    """
    at = clock.now()
    with tenancy.transaction(organization_id) as session:
        organizations.get(session, organization_id)
        drafts = [_draft(session, period, period.ends_at) for period in _ended(session, organization_id, at)]
        running = find_running(session, organization_id, at)
        if running and running.starts_at < at:
            drafts.append(_draft(session, running, at))
    return drafts


def _due(at: datetime, organization_id: UUID | None) -> Sequence[UUID]:
    with tenancy.as_system("billing.due") as session:
        values = {"through": _through(at), "organization_id": organization_id}
        return session.execute(_DUE, values).scalars().all()


def _through(at: datetime) -> datetime:
    return at - timedelta(minutes=setting("BILLING_GRACE_MINUTES"))


def _lock(session: Session, organization_id: UUID) -> None:
    session.execute(_LOCK, {"organization": str(organization_id)})


def _close_ended(organization_id: UUID, at: datetime) -> int:
    with tenancy.as_system("billing.close") as session:
        _lock(session, organization_id)
        ensure_period(session, organization_id, at)
        closed = _close(session, organization_id, _through(at))
        if closed:
            organizations.changed(session, organization_id)
        fault("billing.in_close")
    fault("billing.after_close")
    return closed


def _close(session: Session, organization_id: UUID, through: datetime) -> int:
    values = {"organization_id": organization_id, "through": through}
    result: Any = session.execute(_CLOSE_ENDED, values)
    return int(result.rowcount)


def _has_begun(session: Session, organization_id: UUID, at: datetime) -> bool:
    running = find_running(session, organization_id, at)
    return running is not None and running.starts_at < at


def _cut(session: Session, organization_id: UUID, at: datetime) -> int:
    organization = organizations.get(session, organization_id)
    zone = clock.zone(organization.timezone)
    anchor_day = session.scalars(
        select(Subscription.anchor_day).where(Subscription.organization_id == organization_id)
    ).one()
    next_end = periods.next_end(at, anchor_day, zone, periods.AT_SIGN_UP)
    values = {
        "organization_id": organization_id,
        "at": at,
        "next": new_id(),
        "next_end": next_end,
        "next_nominal": periods.nominal_seconds(at, next_end, anchor_day, zone),
        "timezone": organization.timezone,
    }
    session.execute(_CUT, values)
    session.execute(_SUCCEED, values)
    return _close(session, organization_id, at)


def _invoice_closed(organization_id: UUID) -> list[Summary]:
    written: list[Summary] = []
    while True:
        with tenancy.as_system("billing.close") as session:
            invoice = invoice_next(session, organization_id)
        if invoice is None:
            return written
        fault("billing.after_invoice_commit")
        written.append(invoice)


def _ended(session: Session, organization_id: UUID, through: datetime) -> Sequence[BillingPeriod]:
    return session.scalars(
        select(BillingPeriod)
        .where(BillingPeriod.organization_id == organization_id, BillingPeriod.state != "invoiced")
        .where((BillingPeriod.ends_at <= through) | (BillingPeriod.state == "closed"))
        .order_by(BillingPeriod.seq)
    ).all()


def _draft(session: Session, period: BillingPeriod, ends_at: datetime) -> Summary:
    draft = invoice_draft(period_inputs(session, period, ends_at))
    return Summary(period.organization_id, None, None, draft.total_minor, draft.currency, "draft")
