"""Bill previews and plan simulations."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, periods, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import Bill, RatedPlanVersion
from saas_api.billing.subscriptions import InvalidPlan
from saas_api.core import clock
from saas_api.core.errors import ServiceUnavailable, ValidationFailed
from saas_api.usage import ledger


class NoCurrentPeriod(ServiceUnavailable):
    """There is no open period, and none could be opened."""


@dataclass(frozen=True)
class BillPreview:
    """A bill that is not written.

    forecast: the same usage with the base to the period's end
    """

    starts_at: datetime
    ends_at: datetime
    timezone: str
    total_requests: int
    draft: Bill
    forecast: Bill


def preview_current_period(session: Session, organization_id: UUID) -> BillPreview:
    """What closing the running period now would charge.

    raises: NoSuchOrganization; NoRunningPeriod
    """
    period = _current_period(session, organization_id)
    now = max(clock.now(), period.starts_at)
    return BillPreview(
        period.starts_at,
        period.ends_at,
        period.timezone,
        ledger.count_requests(session, organization_id, period.id),
        bill.calculate_bill(bill_inputs.get_period_inputs(session, period, now)),
        bill.calculate_bill(bill_inputs.get_period_inputs(session, period, period.ends_at)),
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
    """One period's whole bill on one plan.

    starts_at, ends_at: of the period; a whole month for quantities that were given
    """

    starts_at: datetime
    ends_at: datetime
    draft: Bill


@dataclass(frozen=True)
class PlanSimulation:
    """What one plan would have cost.

    is_current: whether the organization is on this plan now
    """

    plan: str
    version: RatedPlanVersion
    is_current: bool
    periods: tuple[SimulatedBill, ...]

    @property
    def total_minor(self) -> int:
        """Sum over the periods."""
        return sum(part.draft.total_minor for part in self.periods)


def simulate_plans(
    session: Session,
    organization_id: UUID,
    codes: Collection[str] | None,
    count: int = 0,
    quantities: Mapping[str, Decimal] | None = None,
) -> list[PlanSimulation]:
    """What real usage, or given quantities in a whole month, would cost on each plan, base to each period's end.

    codes: of plans; None for all that anybody may choose
    count: 0 for the running period, else that many periods before it
    quantities: by meter; instead of what was used
    raises: InvalidPlan with each that cannot be chosen; Invalid for an unknown meter; NoSuchOrganization
    """
    running = _current_period(session, organization_id)
    held = subscriptions.get_subscription(session, organization_id, clock.now())
    current = plans.plan_for_version(held.version.id)
    choices = _selectable_plans(session, codes, current)
    if quantities is not None:
        _check_meters(session, quantities)
        month = BillingPeriod(
            starts_at=running.ends_at - timedelta(seconds=running.nominal_seconds),
            ends_at=running.ends_at,
            nominal_seconds=running.nominal_seconds,
        )
        used = [(month, quantities)]
    else:
        periods = bill_inputs.list_previous_periods(session, running, count) if count else [running]
        happened = bill_inputs.usage_by_period(session, organization_id, periods)
        used = [(period, happened.get(period.id, {})) for period in periods]
    return [
        PlanSimulation(
            code,
            version,
            code == current,
            tuple(
                SimulatedBill(
                    period.starts_at,
                    period.ends_at,
                    bill.calculate_bill(bill_inputs.inputs_for_version(period, version, quantity)),
                )
                for period, quantity in used
            ),
        )
        for code, version in choices.items()
    ]


def _selectable_plans(session: Session, codes: Collection[str] | None, current: str) -> dict[str, RatedPlanVersion]:
    """The newest version of each plan, in the catalogue's order."""
    found = plans.list_selectable_plans(session, codes)
    offered = {code: choice.version for code, choice in found.items() if choice.is_public or code == current}
    wrong = [(index, code) for index, code in enumerate(codes or ()) if code not in offered]
    if wrong:
        reasons = [{"field": f"plans.{index}", "reason": f"There is no plan {code}."} for index, code in wrong]
        raise InvalidPlan(details={"fields": reasons})
    return offered


def _check_meters(session: Session, quantities: Mapping[str, Decimal]) -> None:
    known = plans.meter_units(session)
    unknown = [(f"quantities.{meter}", "There is no such meter.") for meter in quantities if meter not in known]
    if unknown:
        raise ValidationFailed.from_fields(unknown)
