"""Bills that are calculated and not stored: the current period so far, and usage on other plans."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, periods, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import Bill, RatedPlanVersion, UsageQuantity
from saas_api.billing.subscriptions import InvalidPlan
from saas_api.core import clock
from saas_api.core.errors import ServiceUnavailable, ValidationFailed
from saas_api.usage import meters


class NoCurrentPeriod(ServiceUnavailable):
    """The organization has no open period, and none could be opened."""


@dataclass(frozen=True)
class BillPreview:
    """The bill of the current period so far.

    total_requests: accepted requests that the period pays for
    forecast: the same usage with the base to the period's end
    """

    starts_at: datetime
    ends_at: datetime
    timezone: str
    total_requests: int
    bill: Bill
    forecast: Bill

    @property
    def currency(self) -> str:
        return self.bill.currency


def preview_current_period(session: Session, organization_id: UUID) -> BillPreview:
    """Calculate what closing the current period now would charge.

    raises: OrganizationNotFound, NoCurrentPeriod
    """
    period = _current_period(session, organization_id)
    now = max(clock.now(), period.starts_at)
    usage = bill_inputs.get_live_usage(session, period, subscriptions.list_segments(session, organization_id))
    return BillPreview(
        period.starts_at,
        period.ends_at,
        period.timezone,
        usage.requests,
        bill.calculate_bill(bill_inputs.get_period_inputs(session, period, now, usage)),
        bill.calculate_bill(bill_inputs.get_period_inputs(session, period, period.ends_at, usage)),
    )


def _current_period(session: Session, organization_id: UUID) -> BillingPeriod:
    now = clock.now()
    periods.ensure_account(session, organization_id)
    periods.ensure_period(session, organization_id, now)
    period = periods.find_current_period(session, organization_id, now) or periods.find_earliest_open_period(
        session, organization_id
    )
    if period is None:
        raise NoCurrentPeriod
    return period


@dataclass(frozen=True)
class SimulatedBill:
    """The bill of a whole period on one plan.

    starts_at, ends_at: of the period; of a whole month for given quantities
    """

    starts_at: datetime
    ends_at: datetime
    bill: Bill


@dataclass(frozen=True)
class PlanSimulation:
    """Cost of the simulated usage on one plan.

    is_current: whether the organization is on the plan now
    """

    plan: str
    version: RatedPlanVersion
    is_current: bool
    periods: tuple[SimulatedBill, ...]

    @property
    def currency(self) -> str:
        """Currency of every amount."""
        return self.version.currency

    @property
    def total_minor(self) -> int:
        """Sum over the periods, in minor units."""
        return sum(part.bill.total_minor for part in self.periods)


def simulate_plans(
    session: Session,
    organization_id: UUID,
    codes: Collection[str] | None,
    count: int = 0,
    quantities: Mapping[str, Decimal] | None = None,
) -> list[PlanSimulation]:
    """Calculate what recorded usage, or given quantities in a whole month, would cost on each plan.

    The base is charged to the end of each period.

    codes: of plans; None for every public plan and the current one
    count: 0 for the current period, else the number of periods before it
    quantities: by meter; replaces the recorded usage
    raises: InvalidPlan with each plan that cannot be chosen; ValidationFailed for an unknown meter;
        OrganizationNotFound
    """
    current_period = _current_period(session, organization_id)
    subscription = subscriptions.get_subscription(session, organization_id, clock.now())
    current_plan = plans.plan_for_version(subscription.version.id)
    versions = _selectable_versions(session, codes, current_plan, subscription.version.currency)
    if quantities is not None:
        _check_meters(session, quantities)
        usage = _given_month(current_period, versions.values(), quantities)
    else:
        usage = _recorded_periods(session, current_period, count, versions.values())
    return [
        PlanSimulation(
            code,
            version,
            code == current_plan,
            tuple(
                SimulatedBill(
                    period.starts_at,
                    period.ends_at,
                    bill.calculate_bill(bill_inputs.inputs_for_version(period, version, used)),
                )
                for period, used in usage[version.id]
            ),
        )
        for code, version in versions.items()
    ]


_SimulatedUsage = Mapping[str, Sequence[tuple[BillingPeriod, Sequence[UsageQuantity]]]]
"""Periods with their usage, by plan version."""


def _given_month(
    period: BillingPeriod, versions: Iterable[RatedPlanVersion], quantities: Mapping[str, Decimal]
) -> _SimulatedUsage:
    month = BillingPeriod(
        starts_at=period.ends_at - timedelta(seconds=period.nominal_seconds),
        ends_at=period.ends_at,
        nominal_seconds=period.nominal_seconds,
    )
    return {version.id: [(month, bill_inputs.given_usage(version, quantities))] for version in versions}


def _recorded_periods(
    session: Session, current_period: BillingPeriod, count: int, versions: Iterable[RatedPlanVersion]
) -> _SimulatedUsage:
    periods = bill_inputs.list_previous_periods(session, current_period, count) if count else [current_period]
    ids = [version.id for version in versions]
    used = bill_inputs.usage_by_period(session, current_period.organization_id, periods, ids)
    return {one: [(period, used.get((period.id, one), ())) for period in periods] for one in ids}


def _selectable_versions(
    session: Session, codes: Collection[str] | None, current_plan: str, currency: str
) -> dict[str, RatedPlanVersion]:
    """The newest version of each plan that can be chosen, in the order of plans."""
    choices = plans.list_selectable_plans(session, codes, currency)
    versions = {code: choice.version for code, choice in choices.items() if choice.is_public or code == current_plan}
    unavailable = [(index, code) for index, code in enumerate(codes or ()) if code not in versions]
    if unavailable:
        reasons = [{"field": f"plans.{index}", "reason": f"There is no plan {code}."} for index, code in unavailable]
        raise InvalidPlan(details={"fields": reasons})
    return versions


def _check_meters(session: Session, quantities: Mapping[str, Decimal]) -> None:
    known = meters.all_meters(session)
    unknown = [(f"quantities.{meter}", "There is no such meter.") for meter in quantities if meter not in known]
    if unknown:
        raise ValidationFailed.from_fields(unknown)
