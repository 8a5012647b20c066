"""The current period of an organization: what it costs so far, and what it will cost at the present pace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, pauses, period_spend, periods
from saas_api.billing.bill_inputs import LiveUsage
from saas_api.billing.models import BillingPeriod, BillingProfile, Subscription, SubscriptionSegment
from saas_api.billing.rating import bill, plan_changes
from saas_api.billing.rating.bill import Bill, BillInputs, BillLine, LineKind, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import clock, money
from saas_api.core.errors import ServiceUnavailable

_MOMENT = timedelta(microseconds=1)
_MIN_PACE = timedelta(days=1)
_UNIT, _SMALLEST_QUANTITY = Decimal(1), Decimal("0.000001")


class NoCurrentPeriod(ServiceUnavailable):
    """The organization has no open period, and none could be opened."""


@dataclass(frozen=True)
class BillingAccount:
    """Subscription, spend cap and current period of an organization."""

    subscription: Subscription
    profile: BillingProfile
    period: BillingPeriod
    stages: Sequence[PlanSegment]


@dataclass(frozen=True)
class CurrentPeriod:
    """The current period with its figures, which pages, API and console show under the same names.

    version: plan version in force
    coming: scheduled segment and its version
    usage: what the period pays for so far
    bill: of the whole period with the usage so far
    forecast: as if usage continued at its pace under the current version; None on the first day of a period or version
    spent_minor: base amount of the whole period and all usage, unrounded, as the spend cap counts it
    held_minor: what open holds would add to it; the spend cap counts them too
    """

    account: BillingAccount
    version: RatedPlanVersion
    coming: tuple[PlanSegment, RatedPlanVersion] | None
    usage: LiveUsage
    bill: Bill
    forecast: Bill | None
    spent_minor: Decimal
    held_minor: int

    @property
    def currency(self) -> str:
        """Currency of every amount."""
        return self.bill.currency

    @property
    def base_minor(self) -> int:
        """Base amount of the whole period."""
        return sum(line.amount_minor for line in self.bill.lines if line.kind == LineKind.BASE)

    @property
    def requests(self) -> int:
        """Accepted calls that the period pays for."""
        return self.usage.requests

    @property
    def lines(self) -> list[BillLine]:
        """The lines of the cost so far: those of the bill without what minimums would add if no more usage came."""
        return [line for line in self.bill.lines if line.kind != LineKind.MINIMUM]

    @property
    def so_far_minor(self) -> int:
        """The cost so far: base amount of the whole period and usage."""
        return sum(line.amount_minor for line in self.lines)

    @property
    def projected_minor(self) -> int | None:
        """Total of the forecast, with what a minimum adds; None without one."""
        return self.forecast.total_minor if self.forecast else None


def find_account(session: Session, organization_id: UUID, at: datetime) -> BillingAccount | None:
    """Returns the account of an organization, or None before it or its current period exists."""
    return _find_account(session, organization_id, at, BillingPeriod.ends_at > at)


def get_account(session: Session, organization_id: UUID, at: datetime) -> BillingAccount:
    """Returns the account of an organization, and creates it and its current period where they are missing.

    Its period is the earliest open one when none contains the instant.

    raises: OrganizationNotFound, NoCurrentPeriod
    """
    account = find_account(session, organization_id, at)
    if account is None:
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, at)
        account = _find_account(session, organization_id, at)
    if account is None:
        raise NoCurrentPeriod
    return account


def _find_account(
    session: Session, organization_id: UUID, at: datetime, *conditions: ColumnElement[bool]
) -> BillingAccount | None:
    segment = SubscriptionSegment
    own = segment.organization_id == organization_id
    versions = select(func.array_agg(aggregate_order_by(segment.plan_version_id, segment.seq))).where(own)
    starts = select(func.array_agg(aggregate_order_by(segment.starts_at, segment.seq))).where(own)
    contains = (BillingPeriod.starts_at <= at) & (BillingPeriod.ends_at > at)
    row = session.execute(
        select(Subscription, BillingProfile, BillingPeriod, versions.scalar_subquery(), starts.scalar_subquery())
        .join(BillingProfile, BillingProfile.organization_id == Subscription.organization_id)
        .join(BillingPeriod, BillingPeriod.organization_id == Subscription.organization_id)
        .where(Subscription.organization_id == organization_id)
        .where(BillingPeriod.status == "open", *conditions)
        .order_by(contains.desc(), BillingPeriod.seq)
        .limit(1)
    ).first()
    if row is None:
        return None
    subscription, profile, period, version_ids, starts_at = row
    return BillingAccount(
        subscription, profile, period, [PlanSegment(*stage) for stage in zip(version_ids, starts_at, strict=True)]
    )


def read_current_period(session: Session, organization_id: UUID) -> CurrentPeriod:
    """Returns the current period of an organization with its bill.

    raises: as `get_account`
    """
    now = clock.now()
    account = get_account(session, organization_id, now)
    return get_current_period(session, account, max(now, account.period.starts_at))


def get_current_period(session: Session, account: BillingAccount, at: datetime) -> CurrentPeriod:
    """Returns the current period of an account with its bill.

    at: not before the period starts
    """
    period, segments = account.period, account.stages
    paused = pauses.list_pauses(session, period.organization_id)
    whole = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at, paused)
    usage = bill_inputs.get_live_usage(session, period, segments)
    used, late = usage.used, usage.late
    current, scheduled = plan_changes.segment_at(segments, at), plan_changes.next_segment(segments, at)
    named = [segment.version_id for segment in (current, scheduled) if segment]
    versions = bill_inputs.get_versions(session, whole, used, late, *named)
    inputs = BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, whole, used, late)
    current_bill = bill.calculate_bill(inputs)
    base = sum(line.amount_minor for line in current_bill.lines if line.kind == LineKind.BASE)
    projected = project_usage(inputs, current, scheduled, at)
    charge = period_spend.usage_charge(inputs)
    held = period_spend.held_charge(inputs, period_spend.held_usage(session, period, segments), charge)
    return CurrentPeriod(
        account,
        versions[current.version_id],
        (scheduled, versions[scheduled.version_id]) if scheduled else None,
        usage,
        current_bill,
        bill.calculate_bill(replace(inputs, used=projected)) if projected is not None else None,
        base + charge,
        money.round_half_up(held),
    )


def project_usage(
    inputs: BillInputs, current: PlanSegment, scheduled: PlanSegment | None, at: datetime
) -> tuple[UsageQuantity, ...] | None:
    """Usage of the period as if that of the current version went on at its pace; None within its first day in it.

    Meters that do not add up stay as they are: neither a peak nor a number of people grows with time.
    """
    ends_at = min(scheduled.starts_at, inputs.ends_at) if scheduled else inputs.ends_at
    elapsed = _time_on(inputs, current.version_id, at)
    if elapsed < _MIN_PACE:
        return None
    factor = Decimal((elapsed + max(ends_at - at, timedelta(0))) // _MOMENT) / (elapsed // _MOMENT)
    return tuple(
        replace(usage, quantity=_project(usage.quantity, factor))
        if usage.version_id == current.version_id and usage.aggregation == "sum"
        else usage
        for usage in inputs.used
    )


def _time_on(inputs: BillInputs, version_id: str, at: datetime) -> timedelta:
    """How long a version was in force in the period, in one or more segments, without pauses."""
    ends = [
        (segment.starts_at, min(segment.ends_at, at)) for segment in inputs.segments if segment.version_id == version_id
    ]
    return sum((max(end - start, timedelta(0)) for start, end in ends), timedelta(0))


def _project(quantity: Decimal, factor: Decimal) -> Decimal:
    """A quantity that has grown; a whole one stays whole."""
    return (quantity * factor).quantize(_UNIT if quantity == int(quantity) else _SMALLEST_QUANTITY)
