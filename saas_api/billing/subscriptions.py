"""Current subscription, segments, change_plan, preview_change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import bill_inputs, periods, plans
from saas_api.billing.models import BillingPeriod, Subscription
from saas_api.billing.rating import bill, plan_changes
from saas_api.billing.rating.bill import Bill, RatedPlanVersion
from saas_api.billing.rating.plan_changes import LineDifference, PlanSegment
from saas_api.core import clock, ids, money
from saas_api.core.errors import Conflict, ServiceUnavailable, ValidationFailed
from saas_api.core.settings import setting
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject

_SEGMENTS = text("""SELECT plan_version_id, starts_at FROM subscription_segments
  WHERE organization_id = :organization_id ORDER BY seq""")


@dataclass(frozen=True)
class CurrentSubscription:
    """What an organization has subscribed to.

    scheduled: what is going to take effect later, with its version
    period: the running one
    """

    subscription: Subscription
    stage: PlanSegment
    version: RatedPlanVersion
    period: BillingPeriod | None
    scheduled: tuple[PlanSegment, RatedPlanVersion] | None


def get_subscription(session: Session, organization_id: UUID, at: datetime) -> CurrentSubscription:
    """The subscription of an organization that has its account."""
    subscription = session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()
    known = list_segments(session, organization_id)
    now, later = plan_changes.segment_at(known, at), plan_changes.next_segment(known, at)
    versions = plans.get_versions(session, {now.version_id, *([later.version_id] if later else [])})
    period = periods.find_current_period(session, organization_id, at) or periods.find_earliest_open_period(
        session, organization_id
    )
    coming = (later, versions[later.version_id]) if later else None
    return CurrentSubscription(subscription, now, versions[now.version_id], period, coming)


def list_segments(session: Session, organization_id: UUID) -> list[PlanSegment]:
    """Every plan version the organization has been on or is going to be on, in order."""
    rows = session.execute(_SEGMENTS, {"organization_id": organization_id})
    return [PlanSegment(*row) for row in rows]


EFFECTIVE_NOW, EFFECTIVE_PERIOD_END = "now", "period_end"
_MAX_ATTEMPTS = 5
# Whoever waited for a change finds the segment ended, and looks again.
_LOCK_OPEN = text("""SELECT seq FROM subscription_segments
  WHERE organization_id = :organization_id AND ends_at IS NULL FOR UPDATE""")
_DELETE_FUTURE_SEGMENTS = text(
    "DELETE FROM subscription_segments WHERE organization_id = :organization_id AND seq > :kept"
)
_END = text("""UPDATE subscription_segments SET ends_at = :ends_at
  WHERE organization_id = :organization_id AND seq = :kept AND ends_at IS DISTINCT FROM :ends_at""")
_INSERT_SEGMENT = text("""
INSERT INTO subscription_segments (organization_id, id, subscription_id, seq, plan_version_id, starts_at)
VALUES (:organization_id, :id, :subscription_id, :seq, :version_id, :starts_at)""")
_RAISE_CAP = text("""UPDATE billing_profiles
  SET spend_cap_minor = CASE WHEN :is_scheduled THEN greatest(spend_cap_minor, :cap) ELSE :cap END
  WHERE organization_id = :organization_id AND spend_cap_is_default""")
_GENERATION = text("SELECT generation FROM organizations WHERE id = :organization_id")


class AlreadyOnPlan(Conflict):
    """Nothing would change: the organization is on this plan, or is going to be from the same instant."""

    code, message = "SAME_PLAN", "The organization is on this plan already."


class InvalidPlan(ValidationFailed):
    """There is no such plan to choose: unknown, retired, not on offer, or of another currency."""

    code, message = "INVALID_PLAN", "There is no such plan; GET /billing/plans lists them."


class NoOpenPeriod(ServiceUnavailable):
    """There is no running period or no open segment, and none could be opened."""


@dataclass(frozen=True)
class PlanChange:
    """A change of plan, made or only looked at.

    previous: the plan version that was in force, or was scheduled and is called off
    before, after: the running period's whole bill without and with the change
    shifts: the lines in which those differ; `total_minor` is their sum
    """

    subscription_id: UUID
    previous: str
    version: RatedPlanVersion
    effective_at: datetime
    is_scheduled: bool
    period: BillingPeriod
    before: Bill
    after: Bill

    @property
    def plan(self) -> str:
        """The plan that is changed to."""
        return plans.plan_for_version(self.version.id)

    @property
    def plan_in_force(self) -> str:
        """The plan that holds as soon as the change is made."""
        return plans.plan_for_version(self.previous) if self.is_scheduled else self.plan

    @property
    def shifts(self) -> tuple[LineDifference, ...]:
        """What the change adds to and takes from the running period's bill."""
        return plan_changes.diff_bills(self.before, self.after)

    @property
    def total_minor(self) -> int:
        """Sum of the shifts; below 0 where the bill gets smaller."""
        return self.after.total_minor - self.before.total_minor


@dataclass(frozen=True)
class _PlannedChange:
    change: PlanChange
    before: Sequence[PlanSegment]
    after: Sequence[PlanSegment]


def change_plan(
    session: Session, organization_id: UUID, plan: str, when: str | None, actor: Actor, *, reason: str = ""
) -> PlanChange:
    """Put an organization on the newest version of a plan; a change that was scheduled before is dropped.

    when: "now" or "period_end"; None for now where the base is higher, else the period's end
    reason: of an operator, for the log of acts
    raises: SamePlan; InvalidPlan; NoSuchOrganization; NoOpenPeriod
    """
    periods.ensure_account(session, organization_id)
    periods.ensure_period(session, organization_id, clock.now())
    periods.lock_periods_shared(session, organization_id)
    _lock_open(session, organization_id)
    made = _plan_change(session, organization_id, plan, when, is_customer=actor.kind in ("user", "api_key"))
    _write(session, organization_id, made)
    _raise_default_cap(session, organization_id, made)
    change = made.change
    organizations.bump_generation(session, organization_id)
    organizations.get(session, organization_id).updated_at = clock.now()
    data = {
        "before": {"plan": change.previous},
        "after": {"plan": change.version.id},
        "effective_at": clock.format_rfc3339(change.effective_at),
        **({"reason": reason} if reason else {}),
    }
    target = ("subscription", change.subscription_id)
    audit.record_event(session, organization_id, actor, "subscription.changed", target, data)
    _publish(session, organization_id, change)
    return change


def preview_change(
    session: Session, organization_id: UUID, plan: str, when: str | None, *, is_customer: bool = True
) -> PlanChange:
    """What `change_plan` would do at this moment; nothing is written.

    is_customer: only a plan on offer can be chosen then
    raises: as `change_plan`
    """
    periods.ensure_account(session, organization_id)
    periods.ensure_period(session, organization_id, clock.now())
    return _plan_change(session, organization_id, plan, when, is_customer=is_customer).change


def _lock_open(session: Session, organization_id: UUID) -> None:
    for _ in range(_MAX_ATTEMPTS):
        if session.execute(_LOCK_OPEN, {"organization_id": organization_id}).first():
            return
    raise NoOpenPeriod


def _plan_change(
    session: Session, organization_id: UUID, plan: str, when: str | None, *, is_customer: bool
) -> _PlannedChange:
    now = clock.now()
    held = get_subscription(session, organization_id, now)
    if held.period is None:
        raise NoOpenPeriod
    stages = list_segments(session, organization_id)
    now = max(now, held.period.starts_at, held.stage.starts_at)
    version, effective_at = _target_version(session, held, plan, is_customer=is_customer), now
    is_called_off = held.scheduled is not None and version.id == held.stage.version_id
    if not is_called_off and (when or _default_when(held.version, version)) == EFFECTIVE_PERIOD_END:
        effective_at = held.period.ends_at
    planned = plan_changes.apply_change(stages, version.id, now, effective_at)
    if planned == stages:
        raise AlreadyOnPlan
    previous = held.scheduled[0].version_id if held.scheduled and is_called_off else held.stage.version_id
    change = PlanChange(
        held.subscription.id,
        previous,
        version,
        effective_at,
        effective_at > now,
        held.period,
        bill.calculate_bill(bill_inputs.inputs_for_segments(session, held.period, stages)),
        bill.calculate_bill(bill_inputs.inputs_for_segments(session, held.period, planned)),
    )
    return _PlannedChange(change, stages, planned)


def _target_version(session: Session, held: CurrentSubscription, plan: str, *, is_customer: bool) -> RatedPlanVersion:
    """The version that is asked for; staying, with a change away scheduled, means the version that is in force."""
    chosen = plans.list_selectable_plans(session, [plan]).get(plan)
    is_same = plan == plans.plan_for_version(held.stage.version_id)
    if chosen is None or not (chosen.is_open or is_same or not is_customer):
        raise InvalidPlan(details={"fields": [{"field": "plan", "reason": "There is no such plan to choose."}]})
    if chosen.version.currency != held.version.currency:
        raise InvalidPlan(details={"fields": [{"field": "plan", "reason": "This plan is in another currency."}]})
    is_away = held.scheduled is not None and plans.plan_for_version(held.scheduled[0].version_id) != plan
    return held.version if is_same and is_away else chosen.version


def _default_when(current: RatedPlanVersion, wanted: RatedPlanVersion) -> str:
    return EFFECTIVE_NOW if wanted.base_amount_minor > current.base_amount_minor else EFFECTIVE_PERIOD_END


def _write(session: Session, organization_id: UUID, made: _PlannedChange) -> None:
    """Replace the end of the chain: what is dropped first, then the new end of what stays, then what follows."""
    same = sum(1 for old, new in zip(made.before, made.after, strict=False) if old == new)
    added = made.after[same:]
    values = {"organization_id": organization_id, "kept": same}
    session.execute(_DELETE_FUTURE_SEGMENTS, values)
    session.execute(_END, {**values, "ends_at": added[0].starts_at if added else None})
    for seq, stage in enumerate(added, start=same + 1):
        row = {"id": ids.new_id(), "subscription_id": made.change.subscription_id, "seq": seq}
        session.execute(_INSERT_SEGMENT, {"organization_id": organization_id, **row, **vars(stage)})


def _raise_default_cap(session: Session, organization_id: UUID, made: _PlannedChange) -> None:
    """Until its owner sets one, let the cap lie above every base the change brings; what is scheduled lowers none."""
    change, default = made.change, setting("DEFAULT_SPEND_CAP")
    bases = sum(line.amount_minor for line in change.after.lines if line.kind == "base")
    cap = None
    if default is not None:
        cap = int(default.scaleb(money.currency_exponent(change.version.currency))) + max(
            change.version.base_amount_minor, bases
        )
    session.execute(_RAISE_CAP, {"organization_id": organization_id, "cap": cap, "is_scheduled": change.is_scheduled})


def _publish(session: Session, organization_id: UUID, change: PlanChange) -> None:
    generation = session.scalar(_GENERATION, {"organization_id": organization_id}) or 1
    data = {
        "object": "subscription",
        "id": ids.format_id("sub", change.subscription_id),
        "status": "active",
        "plan": change.plan,
        "previous_plan": plans.plan_for_version(change.previous),
        "effective_at": clock.format_rfc3339(change.effective_at),
        "canceled_at": None,
    }
    subject = EventSubject(change.subscription_id, generation)
    events.publish(session, organization_id, "subscription.updated", subject, data)
