"""Changing an organization's plan: at once or when the period ends; usage counts under the plan it happened on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.queries.catalogue import plan_of
from saas_api.billing.queries.plans import Held
from saas_api.billing.rules.bill import Draft, Version, invoice_draft
from saas_api.billing.rules.plans.changes import Shift, Stage, replan, shifts
from saas_api.billing.service.periods import ensure_account, ensure_period, hold_periods
from saas_api.core import clock
from saas_api.core.errors import Conflict, Invalid, Unavailable
from saas_api.core.ids import new_id, wire_id
from saas_api.core.money import exponent
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.webhooks import service as webhooks

NOW, PERIOD_END = "now", "period_end"
_TRIES = 5
# Whoever waited for a change finds the segment ended, and looks again.
_LOCK_OPEN = text("""SELECT seq FROM subscription_segments
  WHERE organization_id = :organization_id AND ends_at IS NULL FOR UPDATE""")
_DROP = text("DELETE FROM subscription_segments WHERE organization_id = :organization_id AND seq > :kept")
_END = text("""UPDATE subscription_segments SET ends_at = :ends_at
  WHERE organization_id = :organization_id AND seq = :kept AND ends_at IS DISTINCT FROM :ends_at""")
_FOLLOW = text("""
INSERT INTO subscription_segments (organization_id, id, subscription_id, seq, plan_version_id, starts_at)
VALUES (:organization_id, :id, :subscription_id, :seq, :version_id, :starts_at)""")
_CAP = text("""UPDATE billing_profiles
  SET spend_cap_minor = CASE WHEN :is_scheduled THEN greatest(spend_cap_minor, :cap) ELSE :cap END
  WHERE organization_id = :organization_id AND spend_cap_is_default""")
_GENERATION = text("SELECT generation FROM organizations WHERE id = :organization_id")


class SamePlan(Conflict):
    """Nothing would change: the organization is on this plan, or is going to be from the same instant."""

    code, message = "SAME_PLAN", "The organization is on this plan already."


class InvalidPlan(Invalid):
    """There is no such plan to choose: unknown, retired, not on offer, or of another currency."""

    code, message = "INVALID_PLAN", "There is no such plan; GET /billing/plans lists them."


class NoOpenPeriod(Unavailable):
    """There is no running period or no open segment, and none could be opened."""


@dataclass(frozen=True)
class Change:
    """A change of plan, made or only looked at.

    previous: the plan version that was in force, or was scheduled and is called off
    before, after: the running period's whole bill without and with the change
    shifts: the lines in which those differ; `total_minor` is their sum
    """

    subscription_id: UUID
    previous: str
    version: Version
    effective_at: datetime
    is_scheduled: bool
    period: BillingPeriod
    before: Draft
    after: Draft

    @property
    def plan(self) -> str:
        """The plan that is changed to."""
        return plan_of(self.version.id)

    @property
    def plan_in_force(self) -> str:
        """The plan that holds as soon as the change is made."""
        return plan_of(self.previous) if self.is_scheduled else self.plan

    @property
    def shifts(self) -> tuple[Shift, ...]:
        """What the change adds to and takes from the running period's bill."""
        return shifts(self.before, self.after)

    @property
    def total_minor(self) -> int:
        """Sum of the shifts; below 0 where the bill gets smaller."""
        return self.after.total_minor - self.before.total_minor


@dataclass(frozen=True)
class _Plan:
    change: Change
    before: Sequence[Stage]
    after: Sequence[Stage]


def change_plan(
    session: Session, organization_id: UUID, plan: str, when: str | None, actor: audit.Actor, *, reason: str = ""
) -> Change:
    """Put an organization on the newest version of a plan; a change that was scheduled before is dropped.

    when: "now" or "period_end"; None for now where the base is higher, else the period's end
    reason: of an operator, for the log of acts
    raises: SamePlan; InvalidPlan; NoSuchOrganization; NoOpenPeriod
    """
    ensure_account(session, organization_id)
    ensure_period(session, organization_id, clock.now())
    hold_periods(session, organization_id)
    _lock_open(session, organization_id)
    made = _work_out(session, organization_id, plan, when, is_customer=actor.kind in ("user", "api_key"))
    _write(session, organization_id, made)
    _raise_default_cap(session, organization_id, made)
    change = made.change
    organizations.changed(session, organization_id)
    organizations.get(session, organization_id).updated_at = clock.now()
    data = {
        "before": {"plan": change.previous},
        "after": {"plan": change.version.id},
        "effective_at": clock.rfc3339(change.effective_at),
        **({"reason": reason} if reason else {}),
    }
    target = ("subscription", change.subscription_id)
    audit.record(session, organization_id, actor, "subscription.changed", target, data)
    _publish(session, organization_id, change)
    return change


def look_at_change(
    session: Session, organization_id: UUID, plan: str, when: str | None, *, is_customer: bool = True
) -> Change:
    """What `change_plan` would do at this moment; nothing is written.

    is_customer: only a plan on offer can be chosen then
    raises: as `change_plan`
    """
    ensure_account(session, organization_id)
    ensure_period(session, organization_id, clock.now())
    return _work_out(session, organization_id, plan, when, is_customer=is_customer).change


def _lock_open(session: Session, organization_id: UUID) -> None:
    for _ in range(_TRIES):
        if session.execute(_LOCK_OPEN, {"organization_id": organization_id}).first():
            return
    raise NoOpenPeriod


def _work_out(session: Session, organization_id: UUID, plan: str, when: str | None, *, is_customer: bool) -> _Plan:
    now = clock.now()
    held = plans.held(session, organization_id, now)
    if held.period is None:
        raise NoOpenPeriod
    stages = plans.stages(session, organization_id)
    now = max(now, held.period.starts_at, held.stage.starts_at)
    version, effective_at = _target(session, held, plan, is_customer=is_customer), now
    is_called_off = held.scheduled is not None and version.id == held.stage.version_id
    if not is_called_off and (when or _default_when(held.version, version)) == PERIOD_END:
        effective_at = held.period.ends_at
    planned = replan(stages, version.id, now, effective_at)
    if planned == stages:
        raise SamePlan
    previous = held.scheduled[0].version_id if held.scheduled and is_called_off else held.stage.version_id
    change = Change(
        held.subscription.id,
        previous,
        version,
        effective_at,
        effective_at > now,
        held.period,
        invoice_draft(plans.inputs_under(session, held.period, stages)),
        invoice_draft(plans.inputs_under(session, held.period, planned)),
    )
    return _Plan(change, stages, planned)


def _target(session: Session, held: Held, plan: str, *, is_customer: bool) -> Version:
    """The version that is asked for; staying, with a change away scheduled, means the version that is in force."""
    chosen = catalogue.choices(session, [plan]).get(plan)
    is_same = plan == plan_of(held.stage.version_id)
    if chosen is None or not (chosen.is_open or is_same or not is_customer):
        raise InvalidPlan(details={"fields": [{"field": "plan", "reason": "There is no such plan to choose."}]})
    if chosen.version.currency != held.version.currency:
        raise InvalidPlan(details={"fields": [{"field": "plan", "reason": "This plan is in another currency."}]})
    is_away = held.scheduled is not None and plan_of(held.scheduled[0].version_id) != plan
    return held.version if is_same and is_away else chosen.version


def _default_when(current: Version, wanted: Version) -> str:
    return NOW if wanted.base_amount_minor > current.base_amount_minor else PERIOD_END


def _write(session: Session, organization_id: UUID, made: _Plan) -> None:
    """Replace the end of the chain: what is dropped first, then the new end of what stays, then what follows."""
    same = sum(1 for old, new in zip(made.before, made.after, strict=False) if old == new)
    added = made.after[same:]
    values = {"organization_id": organization_id, "kept": same}
    session.execute(_DROP, values)
    session.execute(_END, {**values, "ends_at": added[0].starts_at if added else None})
    for seq, stage in enumerate(added, start=same + 1):
        row = {"id": new_id(), "subscription_id": made.change.subscription_id, "seq": seq}
        session.execute(_FOLLOW, {"organization_id": organization_id, **row, **vars(stage)})


def _raise_default_cap(session: Session, organization_id: UUID, made: _Plan) -> None:
    """Until its owner sets one, let the cap lie above every base the change brings; what is scheduled lowers none."""
    change, default = made.change, setting("DEFAULT_SPEND_CAP")
    bases = sum(line.amount_minor for line in change.after.lines if line.kind == "base")
    cap = None
    if default is not None:
        cap = int(default.scaleb(exponent(change.version.currency))) + max(change.version.base_amount_minor, bases)
    session.execute(_CAP, {"organization_id": organization_id, "cap": cap, "is_scheduled": change.is_scheduled})


def _publish(session: Session, organization_id: UUID, change: Change) -> None:
    generation = session.scalar(_GENERATION, {"organization_id": organization_id}) or 1
    data = {
        "object": "subscription",
        "id": wire_id("sub", change.subscription_id),
        "status": "active",
        "plan": change.plan,
        "previous_plan": plan_of(change.previous),
        "effective_at": clock.rfc3339(change.effective_at),
        "canceled_at": None,
    }
    subject = webhooks.Subject(change.subscription_id, generation)
    webhooks.publish(session, organization_id, "subscription.updated", subject, data)
