"""Bills that are calculated and not stored: of the current period if it ended now, and of usage on other plans."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, current_period, plans, subscriptions
from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import Bill, RatedPlanVersion, UsageQuantity
from saas_api.billing.subscriptions import InvalidPlan
from saas_api.core import clock
from saas_api.core.errors import ValidationFailed
from saas_api.usage import meters


def preview_final_bill(session: Session, running: CurrentPeriod) -> Bill:
    """Calculate what ending the current period at this moment would charge: the base amount up to now, and usage."""
    period = running.account.period
    now = max(clock.now(), period.starts_at)
    return bill.calculate_bill(bill_inputs.get_period_inputs(session, period, now, running.usage))


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
    period = current_period.get_account(session, organization_id, clock.now()).period
    subscription = subscriptions.get_subscription(session, organization_id, clock.now())
    current_plan = plans.plan_for_version(subscription.version.id)
    versions = _selectable_versions(session, codes, current_plan, subscription.version.currency)
    if quantities is not None:
        _check_meters(session, quantities)
        usage = _given_month(period, versions.values(), quantities)
    else:
        usage = _recorded_periods(session, period, count, versions.values())
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
    session: Session, newest: BillingPeriod, count: int, versions: Iterable[RatedPlanVersion]
) -> _SimulatedUsage:
    periods = bill_inputs.list_previous_periods(session, newest, count) if count else [newest]
    ids = [version.id for version in versions]
    used = bill_inputs.usage_by_period(session, newest.organization_id, periods, ids)
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
