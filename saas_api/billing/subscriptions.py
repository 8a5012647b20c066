"""Subscriptions: the plan of an organization over time, plan changes, and their previews."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import OrganizationClosed
from saas_api.billing import bill_inputs, currencies, periods, plans
from saas_api.billing.models import BillingPeriod, BillingProfile, BillingStanding, Subscription, SubscriptionStatus
from saas_api.billing.plans import DEFAULT_PLAN
from saas_api.billing.rating import bill, plan_changes
from saas_api.billing.rating.bill import Bill, LineKind, RatedPlanVersion
from saas_api.billing.rating.plan_changes import LineDifference, PlanSegment
from saas_api.core import clock, formatting, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, PaymentRequired, ServiceUnavailable, ValidationFailed
from saas_api.core.settings import setting
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject

EFFECTIVE_NOW, EFFECTIVE_PERIOD_END = "now", "period_end"
_MAX_LOCK_ATTEMPTS = 5


class AlreadyOnPlan(Conflict):
    """The organization is on this plan, or is scheduled for it at the same time."""

    code, message = "SAME_PLAN", "The organization is on this plan already."


class InvalidPlan(ValidationFailed):
    """The plan is unknown, archived or not public."""

    code, message = "INVALID_PLAN", "There is no such plan; GET /billing/plans lists them."


class SpendCapTooLow(Conflict):
    """The spend cap would refuse calls on the new plan; repeat the request with `confirm_spend_cap`."""

    code, message = "SPEND_CAP_TOO_LOW", "The spend cap would refuse calls on this plan."


class UpgradeRestricted(PaymentRequired):
    """An invoice is overdue: a plan with a higher base amount or minimum cannot be chosen before it is paid."""

    code, message = "UPGRADE_RESTRICTED", "An invoice is overdue; pay it before you choose a more expensive plan."


class VersionNotInForce(Conflict):
    """The organization has left the plan version, or is scheduled to leave it."""

    message = "The organization is not on this plan version any more, or a change of its plan is scheduled."


class NoOpenPeriod(ServiceUnavailable):
    """The organization has no open billing period or no open segment."""


@dataclass(frozen=True)
class ScheduledChange:
    """A plan version that takes effect later."""

    version: RatedPlanVersion
    effective_at: datetime

    @property
    def currency(self) -> str:
        """Currency of every amount."""
        return self.version.currency


@dataclass(frozen=True)
class CurrentSubscription:
    """The subscription of an organization at one time.

    segment: current segment, on the plan version `version`
    period: current billing period, else the earliest open one
    """

    subscription: Subscription
    segment: PlanSegment
    version: RatedPlanVersion
    period: BillingPeriod | None
    scheduled: ScheduledChange | None


@dataclass(frozen=True)
class SpendCapConflict:
    """A spend cap of the organization's own that leaves nothing for calls on a plan.

    needed_minor: what the period costs without a further call, or the base amount or minimum of a month
    """

    amount_minor: int
    needed_minor: int
    currency: str

    @property
    def message(self) -> str:
        """The conflict as a sentence."""
        amount, needed = (
            formatting.format_money(minor, self.currency) for minor in (self.amount_minor, self.needed_minor)
        )
        return f"Calls would be refused: the spend cap is {amount}, and the plan costs {needed} without a further call."


@dataclass(frozen=True)
class PlanChange:
    """A plan change, applied or previewed.

    previous: version that was in force
    canceled: version that was scheduled and will not take effect
    previous_currency: of the organization before
    before, after: bill of the whole current period without and with the change; if the currency changes, `before` is
        the bill on the default plan in the new currency
    cap_conflict: set if calls that cost money would be refused
    """

    subscription: Subscription
    previous: str
    canceled: str | None
    version: RatedPlanVersion
    effective_at: datetime
    is_scheduled: bool
    period: BillingPeriod
    before: Bill
    after: Bill
    previous_currency: str
    cap_conflict: SpendCapConflict | None = None

    @property
    def currency(self) -> str:
        """Currency of every amount."""
        return self.version.currency

    @property
    def plan(self) -> str:
        """Code of the new plan."""
        return plans.plan_for_version(self.version.id)

    @property
    def plan_in_force(self) -> str:
        """Code of the plan in force right after the change."""
        return plans.plan_for_version(self.previous) if self.is_scheduled else self.plan

    @property
    def differences(self) -> tuple[LineDifference, ...]:
        """Lines in which the bill of the current period changes; `total_minor` is their sum."""
        return plan_changes.diff_bills(self.before, self.after)

    @property
    def total_minor(self) -> int:
        """Change of the bill; below 0 if it gets smaller."""
        return self.after.total_minor - self.before.total_minor


@dataclass(frozen=True)
class _PlannedChange:
    change: PlanChange
    before: Sequence[PlanSegment]
    after: Sequence[PlanSegment]


_VersionChoice = Callable[[CurrentSubscription], RatedPlanVersion]


def get_subscription(session: Session, organization_id: UUID, at: datetime) -> CurrentSubscription:
    """The subscription of an organization that has a billing account."""
    subscription = session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()
    segments = list_segments(session, organization_id)
    current, following = plan_changes.segment_at(segments, at), plan_changes.next_segment(segments, at)
    versions = plans.get_versions(session, {segment.version_id for segment in (current, following) if segment})
    period = periods.find_current_period(session, organization_id, at) or periods.find_earliest_open_period(
        session, organization_id
    )
    scheduled = ScheduledChange(versions[following.version_id], following.starts_at) if following else None
    return CurrentSubscription(subscription, current, versions[current.version_id], period, scheduled)


_SEGMENTS = text("""SELECT plan_version_id, starts_at FROM subscription_segments
  WHERE organization_id = :organization_id ORDER BY seq""")


def list_segments(session: Session, organization_id: UUID) -> list[PlanSegment]:
    """Past, current and scheduled segments of an organization, in order."""
    rows = session.execute(_SEGMENTS, {"organization_id": organization_id})
    return [PlanSegment(*row) for row in rows]


def preview_change(
    session: Session, organization_id: UUID, plan: str, when: str | None, *, is_member: bool = True
) -> PlanChange:
    """Preview `change_plan`. Writes no plan change, but opens the billing account and period if they are missing.

    is_member: a member chooses, so the plan must be public
    raises: as `change_plan`
    """
    periods.ensure_account(session, organization_id)
    periods.ensure_period(session, organization_id, clock.now())
    return _plan_change(
        session,
        organization_id,
        lambda current: _newest_version(session, current, plan, is_member=is_member),
        when,
    ).change


# A statement that waited for a concurrent plan change returns no row, because the change ended the segment.
_LOCK_LAST_SEGMENT = text("""SELECT seq FROM subscription_segments
  WHERE organization_id = :organization_id AND ends_at IS NULL FOR UPDATE""")
_DELETE_FUTURE_SEGMENTS = text(
    "DELETE FROM subscription_segments WHERE organization_id = :organization_id AND seq > :kept_seq"
)
_END_SEGMENT = text("""UPDATE subscription_segments SET ends_at = :ends_at
  WHERE organization_id = :organization_id AND seq = :kept_seq AND ends_at IS DISTINCT FROM :ends_at""")
_INSERT_SEGMENT = text("""
INSERT INTO subscription_segments (organization_id, id, subscription_id, seq, plan_version_id, starts_at, ends_at)
VALUES (:organization_id, :id, :subscription_id, :seq, :version_id, :starts_at, :ends_at)""")
_UPDATE_DEFAULT_CAP = text("""UPDATE billing_profiles
  SET spend_cap_minor = CASE WHEN :is_scheduled AND CAST(:cap AS bigint) IS NOT NULL
    THEN greatest(spend_cap_minor, :cap) ELSE CAST(:cap AS bigint) END
  WHERE organization_id = :organization_id AND spend_cap_is_default""")
_ORGANIZATION_GENERATION = text("SELECT generation FROM organizations WHERE id = :organization_id")


def change_plan(
    session: Session,
    organization_id: UUID,
    plan: str,
    when: str | None,
    actor: Actor,
    *,
    reason: str = "",
    is_cap_confirmed: bool = False,
) -> PlanChange:
    """Move an organization to the newest version of a plan. Cancels a change that was scheduled before.

    The first plan in another currency changes the currency of the organization, for the whole current period: what was
    in force in it is replaced by the default plan in that currency, and an own spend cap by the default one.

    when: "now" or "period_end"; None means now for a higher base amount, else the end of the period
    reason: of an operator, for the audit log
    is_cap_confirmed: a member accepts that the spend cap refuses calls
    raises: AlreadyOnPlan, InvalidPlan, CurrencyFixed, SpendCapTooLow, UpgradeRestricted, OrganizationClosed,
        OrganizationNotFound, NoOpenPeriod
    """
    is_member = actor.kind in ("user", "api_key")

    def choose_version(current: CurrentSubscription) -> RatedPlanVersion:
        return _newest_version(session, current, plan, is_member=is_member)

    is_cap_checked = is_member and not is_cap_confirmed
    return _apply_change(
        session, organization_id, choose_version, when, actor, reason=reason, is_cap_checked=is_cap_checked
    )


def set_currency(
    session: SystemSession, organization_id: UUID, currency: str, actor: Actor, *, reason: str
) -> PlanChange:
    """Change the currency of an organization, which puts it on the default plan from the start of the current period.

    raises: ValidationFailed for a currency without plans, and for the organization's own; CurrencyFixed,
        OrganizationNotFound, NoOpenPeriod
    """
    version_id = plans.find_newest_version_id(session, DEFAULT_PLAN, currency)
    if version_id is None:
        raise ValidationFailed.at_field("currency", f"No plan is published in {currency}.")

    def choose_version(current: CurrentSubscription) -> RatedPlanVersion:
        if current.version.currency == currency:
            raise ValidationFailed.at_field("currency", f"The currency is {currency} already.")
        _check_currency(session, current, is_member=False)
        return plans.get_versions(session, [version_id])[version_id]

    return _apply_change(session, organization_id, choose_version, EFFECTIVE_NOW, actor, reason=reason)


def end_subscription(session: SystemSession, organization_id: UUID, at: datetime, actor: Actor) -> None:
    """End the subscription of an organization and cancel a scheduled change; from then on it pays only for usage.

    session: holds the exclusive period lock
    """
    with suppress(AlreadyOnPlan):  # no change is scheduled
        _apply_change(
            session, organization_id, lambda current: current.version, EFFECTIVE_NOW, actor, reason="subscription ended"
        )
    subscription = session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()
    subscription.status, subscription.ended_at = SubscriptionStatus.ENDED, at


def move_to_version(
    session: Session, organization_id: UUID, source_id: str, version: RatedPlanVersion, when: str, actor: Actor
) -> PlanChange:
    """Move an organization that is on one plan version to another version, if no change of its plan is scheduled.

    when: "now" or "period_end"
    raises: VersionNotInForce, OrganizationNotFound, NoOpenPeriod
    """

    def check_source(current: CurrentSubscription) -> RatedPlanVersion:
        if current.segment.version_id != source_id or current.scheduled:
            raise VersionNotInForce
        return version

    reason = f"moved from {source_id} to {version.id}"
    return _apply_change(session, organization_id, check_source, when, actor, reason=reason)


def _apply_change(
    session: Session,
    organization_id: UUID,
    choose_version: _VersionChoice,
    when: str | None,
    actor: Actor,
    *,
    reason: str,
    is_cap_checked: bool = False,
) -> PlanChange:
    periods.ensure_account(session, organization_id)
    periods.ensure_period(session, organization_id, clock.now())
    periods.lock_periods_shared(session, organization_id)
    _lock_last_segment(session, organization_id)
    planned = _plan_change(session, organization_id, choose_version, when)
    change = planned.change
    if is_cap_checked and change.cap_conflict:
        raise SpendCapTooLow(change.cap_conflict.message, details={"field": "confirm_spend_cap"})
    _write_segments(session, organization_id, planned)
    if change.previous_currency != change.currency:
        _change_currency(session, organization_id, change.currency)
    _update_default_cap(session, organization_id, change)
    organizations.bump_generation(session, organization_id)
    organizations.get_organization(session, organization_id).updated_at = clock.now()
    data = {
        "before": {"plan": change.previous, **({"scheduled": change.canceled} if change.canceled else {})},
        "after": {"plan": change.version.id},
        "effective_at": clock.format_rfc3339(change.effective_at),
        **_currency_data(change),
        **({"reason": reason} if reason else {}),
    }
    target = ("subscription", change.subscription.id)
    audit.record_event(session, organization_id, actor, "subscription.changed", target, data)
    _publish_updated(session, organization_id, change)
    return change


def _currency_data(change: PlanChange) -> dict[str, str]:
    is_new = change.currency != change.previous_currency
    return {"currency_before": change.previous_currency, "currency_after": change.currency} if is_new else {}


def _lock_last_segment(session: Session, organization_id: UUID) -> None:
    for _ in range(_MAX_LOCK_ATTEMPTS):
        if session.execute(_LOCK_LAST_SEGMENT, {"organization_id": organization_id}).first():
            return
    raise NoOpenPeriod


def _plan_change(
    session: Session, organization_id: UUID, choose_version: _VersionChoice, when: str | None
) -> _PlannedChange:
    now = clock.now()
    current = get_subscription(session, organization_id, now)
    if current.subscription.status == SubscriptionStatus.ENDED:
        raise OrganizationClosed
    if current.period is None:
        raise NoOpenPeriod
    before = list_segments(session, organization_id)
    now = max(now, current.period.starts_at, current.segment.starts_at)
    version, effective_at = choose_version(current), now
    is_cancellation = current.scheduled is not None and version.id == current.segment.version_id
    if not is_cancellation and (when or _default_when(current.version, version)) == EFFECTIVE_PERIOD_END:
        effective_at = current.period.ends_at
    unchanged = before
    if version.currency != current.version.currency:
        default_id = plans.get_newest_version_id(session, DEFAULT_PLAN, version.currency)
        unchanged = plan_changes.replace_period(before, current.period.starts_at, default_id)
    after = plan_changes.apply_change(unchanged, version.id, now, effective_at)
    if after == before:
        raise AlreadyOnPlan
    change = PlanChange(
        current.subscription,
        current.version.id,
        current.scheduled.version.id if current.scheduled else None,
        version,
        effective_at,
        effective_at > now,
        current.period,
        bill.calculate_bill(bill_inputs.inputs_for_segments(session, current.period, unchanged)),
        bill.calculate_bill(bill_inputs.inputs_for_segments(session, current.period, after)),
        current.version.currency,
    )
    profile = session.get_one(BillingProfile, organization_id)
    change = replace(change, cap_conflict=_find_change_conflict(profile, current.version, change))
    return _PlannedChange(change, before, after)


def _find_change_conflict(
    profile: BillingProfile, previous: RatedPlanVersion, change: PlanChange
) -> SpendCapConflict | None:
    if change.previous_currency != change.currency:
        return None  # the own cap goes
    charged = (0, 0) if change.is_scheduled else (_charged_minor(change.before), _charged_minor(change.after))
    return find_cap_conflict(profile, previous, change.version, charged)


def find_cap_conflict(
    profile: BillingProfile,
    previous: RatedPlanVersion,
    version: RatedPlanVersion,
    charged_minor: tuple[int, int] = (0, 0),
) -> SpendCapConflict | None:
    """Whether an own cap that blocks leaves nothing for calls on a version, and left something on the previous one.

    charged_minor: what counts against the cap in the current period, on the previous version and on the other
    """
    cap_minor = profile.spend_cap_minor
    if cap_minor is None or profile.spend_cap_action != "block" or profile.spend_cap_is_default:
        return None
    before, after = (
        max(one.base_amount_minor, one.min_spend_minor, charged)
        for one, charged in zip((previous, version), charged_minor, strict=True)
    )
    is_full = cap_minor < after or cap_minor == version.base_amount_minor > 0
    return SpendCapConflict(cap_minor, after, version.currency) if is_full and after > before else None


def _charged_minor(period_bill: Bill) -> int:
    """What a bill counts against the spend cap."""
    uncounted = (LineKind.MINIMUM, LineKind.CARRY)
    return sum(line.amount_minor for line in period_bill.lines if line.kind not in uncounted)


def _newest_version(session: Session, current: CurrentSubscription, plan: str, *, is_member: bool) -> RatedPlanVersion:
    """The newest version of the plan; the version in force if the change cancels a scheduled one."""
    choice = plans.list_selectable_plans(session, [plan], current.version.currency).get(plan)
    is_same = plan == plans.plan_for_version(current.segment.version_id)
    if choice is None or not (choice.is_public or is_same or not is_member):
        raise InvalidPlan(details={"fields": [{"field": "plan", "reason": "There is no such plan to choose."}]})
    if choice.version.currency != current.version.currency:
        _check_currency(session, current, is_member=is_member)
    is_leaving = current.scheduled is not None and plans.plan_for_version(current.scheduled.version.id) != plan
    version = current.version if is_same and is_leaving else choice.version
    if is_member and current.subscription.standing != BillingStanding.GOOD and _is_upgrade(current.version, version):
        raise UpgradeRestricted
    return version


def _is_upgrade(current: RatedPlanVersion, target: RatedPlanVersion) -> bool:
    return target.base_amount_minor > current.base_amount_minor or target.min_spend_minor > current.min_spend_minor


def _check_currency(session: Session, current: CurrentSubscription, *, is_member: bool) -> None:
    if current.period is None:
        raise NoOpenPeriod
    currencies.check_changeable(session, current.subscription.organization_id, current.period, is_member=is_member)


def _default_when(current: RatedPlanVersion, target: RatedPlanVersion) -> str:
    is_higher = target.base_amount_minor > current.base_amount_minor
    return EFFECTIVE_NOW if is_higher or target.currency != current.currency else EFFECTIVE_PERIOD_END


def _write_segments(session: Session, organization_id: UUID, planned: _PlannedChange) -> None:
    """Replace the last segments: delete the dropped ones, end the last one that stays, insert the new ones."""
    kept_seq = sum(1 for old, new in zip(planned.before, planned.after, strict=False) if old == new)
    added = planned.after[kept_seq:]
    values = {"organization_id": organization_id, "kept_seq": kept_seq}
    session.execute(_DELETE_FUTURE_SEGMENTS, values)
    session.execute(_END_SEGMENT, {**values, "ends_at": added[0].starts_at if added else None})
    ends = [*(segment.starts_at for segment in added[1:]), None]
    for seq, (segment, ends_at) in enumerate(zip(added, ends, strict=False), start=kept_seq + 1):
        row = {"id": ids.new_id(), "subscription_id": planned.change.subscription.id, "seq": seq, "ends_at": ends_at}
        session.execute(_INSERT_SEGMENT, {"organization_id": organization_id, **row, **vars(segment)})


# An own cap and thresholds are amounts in the old currency; an organization that wants no cap keeps none.
_CHANGE_CURRENCY = text("""UPDATE billing_profiles SET currency = :currency,
  spend_cap_minor = CASE WHEN spend_cap_minor IS NOT NULL THEN 0 END,
  spend_cap_is_default = spend_cap_is_default OR spend_cap_minor IS NOT NULL
  WHERE organization_id = :organization_id""")
_DELETE_SPEND_ALERTS = text("DELETE FROM alert_rules WHERE organization_id = :organization_id AND subject = 'spend'")


def _change_currency(session: Session, organization_id: UUID, currency: str) -> None:
    session.execute(_CHANGE_CURRENCY, {"organization_id": organization_id, "currency": currency})
    session.execute(_DELETE_SPEND_ALERTS, {"organization_id": organization_id})


def _update_default_cap(session: Session, organization_id: UUID, change: PlanChange) -> None:
    """Keep the default spend cap above base amounts and minimum of the plan. A scheduled change does not lower it."""
    cap = setting("DEFAULT_SPEND_CAP").get(change.currency)
    if cap is not None:
        bases = sum(line.amount_minor for line in change.after.lines if line.kind == LineKind.BASE)
        cap += max(change.version.base_amount_minor, change.version.min_spend_minor, bases)
    session.execute(
        _UPDATE_DEFAULT_CAP, {"organization_id": organization_id, "cap": cap, "is_scheduled": change.is_scheduled}
    )


def _publish_updated(session: Session, organization_id: UUID, change: PlanChange) -> None:
    generation = session.scalar(_ORGANIZATION_GENERATION, {"organization_id": organization_id}) or 1
    resource = {
        "subscription": change.subscription,
        "version": change.version,
        "previous_plan": plans.plan_for_version(change.previous),
        "effective_at": change.effective_at,
    }
    data = event_types.dump_data("subscription.updated", resource)
    subject = EventSubject(change.subscription.id, generation)
    events.publish(session, organization_id, "subscription.updated", subject, data)
