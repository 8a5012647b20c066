"""Bills that are not written: of the running period as closing it now would, and of real usage on other plans."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.queries.inputs import find_earliest_open, find_running, period_inputs
from saas_api.billing.rules.bill import Draft, Version, invoice_draft
from saas_api.billing.service.periods import ensure_account, ensure_period
from saas_api.billing.service.plans import InvalidPlan
from saas_api.core import clock
from saas_api.core.errors import Invalid, Unavailable
from saas_api.usage.queries import ledger


class NoRunningPeriod(Unavailable):
    """There is no open period, and none could be opened."""


@dataclass(frozen=True)
class Preview:
    """A bill that is not written.

    forecast: the same usage with the base to the period's end
    """

    starts_at: datetime
    ends_at: datetime
    timezone: str
    total_requests: int
    draft: Draft
    forecast: Draft


def preview(session: Session, organization_id: UUID) -> Preview:
    """What closing the running period now would charge.

    raises: NoSuchOrganization; NoRunningPeriod
    """
    period = _running(session, organization_id)
    now = max(clock.now(), period.starts_at)
    return Preview(
        period.starts_at,
        period.ends_at,
        period.timezone,
        ledger.request_count(session, organization_id, period.id),
        invoice_draft(period_inputs(session, period, now)),
        invoice_draft(period_inputs(session, period, period.ends_at)),
    )


def _running(session: Session, organization_id: UUID) -> BillingPeriod:
    now = clock.now()
    ensure_account(session, organization_id)
    ensure_period(session, organization_id, now)
    period = find_running(session, organization_id, now) or find_earliest_open(session, organization_id)
    if period is None:
        raise NoRunningPeriod
    return period


@dataclass(frozen=True)
class Simulated:
    """One period's whole bill on one plan.

    starts_at, ends_at: of the period; a whole month for quantities that were given
    """

    starts_at: datetime
    ends_at: datetime
    draft: Draft


@dataclass(frozen=True)
class Simulation:
    """What one plan would have cost.

    is_current: whether the organization is on this plan now
    """

    plan: str
    version: Version
    is_current: bool
    periods: tuple[Simulated, ...]

    @property
    def total_minor(self) -> int:
        """Sum over the periods."""
        return sum(part.draft.total_minor for part in self.periods)


def simulate(
    session: Session,
    organization_id: UUID,
    codes: Collection[str] | None,
    count: int = 0,
    quantities: Mapping[str, Decimal] | None = None,
) -> list[Simulation]:
    """What real usage, or given quantities in a whole month, would cost on each plan, base to each period's end.

    codes: of plans; None for all that anybody may choose
    count: 0 for the running period, else that many periods before it
    quantities: by meter; instead of what was used
    raises: InvalidPlan with each that cannot be chosen; Invalid for an unknown meter; NoSuchOrganization
    """
    running = _running(session, organization_id)
    held = plans.held(session, organization_id, clock.now())
    current = catalogue.plan_of(held.version.id)
    choices = _choices(session, codes, current)
    if quantities is not None:
        _check_meters(session, quantities)
        month = BillingPeriod(
            starts_at=running.ends_at - timedelta(seconds=running.nominal_seconds),
            ends_at=running.ends_at,
            nominal_seconds=running.nominal_seconds,
        )
        used = [(month, quantities)]
    else:
        periods = plans.before(session, running, count) if count else [running]
        happened = plans.happened(session, organization_id, periods)
        used = [(period, happened.get(period.id, {})) for period in periods]
    return [
        Simulation(
            code,
            version,
            code == current,
            tuple(
                Simulated(period.starts_at, period.ends_at, invoice_draft(plans.inputs_on(period, version, quantity)))
                for period, quantity in used
            ),
        )
        for code, version in choices.items()
    ]


def _choices(session: Session, codes: Collection[str] | None, current: str) -> dict[str, Version]:
    """The newest version of each plan, in the catalogue's order."""
    found = catalogue.choices(session, codes)
    offered = {code: choice.version for code, choice in found.items() if choice.is_open or code == current}
    wrong = [(index, code) for index, code in enumerate(codes or ()) if code not in offered]
    if wrong:
        reasons = [{"field": f"plans.{index}", "reason": f"There is no plan {code}."} for index, code in wrong]
        raise InvalidPlan(details={"fields": reasons})
    return offered


def _check_meters(session: Session, quantities: Mapping[str, Decimal]) -> None:
    known = catalogue.units(session)
    unknown = [(f"quantities.{meter}", "There is no such meter.") for meter in quantities if meter not in known]
    if unknown:
        raise Invalid.fields(unknown)
