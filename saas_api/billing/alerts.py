"""Usage and spend alerts: rules of an organization, their evaluation, and notifications at a threshold."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import period_spend, periods, spend_cap
from saas_api.billing.models import AlertFiring, AlertRule, BillingPeriod, BillingProfile
from saas_api.billing.period_spend import PeriodSpend
from saas_api.billing.rating import thresholds
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.thresholds import AlertRuleInput, AlertSubject
from saas_api.core import clock, formatting, ids, money, time_zones
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.ids import NIL_UUID
from saas_api.core.observability import get_logger
from saas_api.core.roles import ADMIN_ROLES, BILLING_ROLES
from saas_api.mail import mails
from saas_api.usage import meters
from saas_api.usage.rollups import IN_TAIL
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject

log = get_logger(__name__)

ALERT_CONTACT_ROLES = ADMIN_ROLES | BILLING_ROLES
# Usage of the last day, because a reversal counts in the hour of its event; late usage can be in any hour.
# Open holds, and those of the last day that were released without usage, are in the counters of the current period.
_PERIODS_WITH_RECENT_USAGE = text(f"""
SELECT p.organization_id, p.id FROM billing_periods p
WHERE p.state = 'open' AND p.starts_at <= :at AND (EXISTS (
    SELECT FROM usage_rollups r WHERE r.organization_id = p.organization_id AND r.billing_period_id = p.id
      AND (r.bucket_at > CAST(:at AS timestamptz) - interval '26 hours' OR r.late_for_period_id <> :nil))
  OR EXISTS (SELECT FROM meters m, usage_events e WHERE e.organization_id = p.organization_id
      AND e.billing_period_id = p.id AND e.month = p.month AND e.meter_code = m.code AND {IN_TAIL})
  OR p.ends_at > :at AND EXISTS (SELECT FROM holds h WHERE h.organization_id = p.organization_id
      AND (h.ended_at IS NULL OR h.ended_at > CAST(:at AS timestamptz) - interval '26 hours')))
ORDER BY p.organization_id, p.seq""")
_LOCK_RULES = text("SELECT 1 FROM billing_profiles WHERE organization_id = :organization_id FOR UPDATE")
_notified_periods: set[UUID] = set()
_notified_lock = threading.Lock()


@dataclass(frozen=True)
class _AlertContext:
    """Period, profile and spend of an organization, which its rules are compared with."""

    organization_id: UUID
    period: BillingPeriod
    profile: BillingProfile
    spent: PeriodSpend


_RULES = text("""
SELECT r.id, r.subject, r.meter_code, r.threshold, r.enabled, f.fired_at
FROM alert_rules r LEFT JOIN alert_firings f ON f.organization_id = r.organization_id AND f.rule_id = r.id
  AND f.billing_period_id = :period_id
WHERE r.organization_id = :organization_id ORDER BY r.subject, r.meter_code, r.threshold""")


def list_alert_rules(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[Row[Any]]:
    """All alert rules: id, subject, meter_code, threshold, enabled, and fired_at: when it fired in this period."""
    return session.execute(_RULES, {"organization_id": organization_id, "period_id": period_id}).all()


def evaluate_alerts(now: datetime) -> None:
    """Fire due alerts of organizations with recent usage, and reconcile their counters, in transactions of its own.

    raises: RuntimeError if an organization failed, so that the run counts as failed
    """
    with tenancy.system_session("billing.alerts") as session:
        rows = session.execute(_PERIODS_WITH_RECENT_USAGE, {"at": now, "nil": NIL_UUID}).all()
    failed = 0
    for organization_id, period_id in rows:
        try:
            _evaluate_organization(organization_id, period_id)
        except Exception:  # one organization must not stop the others
            failed += 1
            log.exception("alerts_failed", organization_id=str(organization_id))
    if failed:
        raise RuntimeError(f"alerts of {failed} organizations could not be evaluated; see the log")


def _evaluate_organization(organization_id: UUID, period_id: UUID) -> None:
    with tenancy.system_session("billing.alerts") as session:
        tenancy.allow_long_statements(session)
        context = _get_context(session, organization_id, period_id)
        spend_cap.reconcile_counters(session, organization_id, period_id, context.spent)
        observations = [(rule, _observed(context, rule)) for rule in _rules(session, organization_id)]
        _fire(session, context, [(rule, value) for rule, value in observations if value and value >= rule.threshold])
        cap = context.profile.spend_cap_minor
        if cap is not None and context.profile.spend_cap_action == "alert" and context.spent.total >= cap:
            _publish_cap_reached(session, context)


def _observed(context: _AlertContext, rule: AlertRule) -> Decimal | None:
    cap = context.profile.spend_cap_minor
    places = -money.currency_exponent(context.profile.currency)
    return thresholds.observed_value(
        rule.subject,
        context.spent.total_major,
        None if cap is None else Decimal(cap).scaleb(places),
        *_watched(context, rule),
    )


def _watched(context: _AlertContext, rule: AlertRule) -> tuple[Decimal, MeterPrice | None]:
    """The quantity that a rule watches, with its price.

    Of a price by dimension whose included quantities are watched, those of the value of which most is used up.
    """
    meter, spent = rule.meter_code or "", context.spent
    price = spent.version.prices.get(meter)
    if price is None or price.dimension is None or rule.subject != AlertSubject.PERCENT_OF_INCLUDED:
        return spent.metered.get(meter, Decimal(0)), price
    return thresholds.find_most_used(
        (spent.quantities.get((spent.version.id, meter, value), Decimal(0)), own)
        for value, own in price.by_value.items()
    )


def notify_cap_reached(organization_id: UUID, period_id: UUID) -> None:
    """Notify an organization that its spend cap blocked a call, once for each period, in a transaction of its own.

    Logs errors instead of raising them: the call is rejected anyway, and the next rejection tries again.
    """
    with _notified_lock:
        if period_id in _notified_periods:
            return
    try:
        with tenancy.system_session("billing.alerts") as session:
            context = _get_context(session, organization_id, period_id)
            _publish_cap_reached(session, context)
            rules = [rule for rule in _rules(session, organization_id) if rule.threshold <= 100]
            due = [(rule, Decimal(100)) for rule in rules if rule.subject == AlertSubject.SPEND_PERCENT_OF_CAP]
            _fire(session, context, due)
    except Exception:
        log.exception("cap_untold", organization_id=str(organization_id))
        return
    with _notified_lock:
        _notified_periods.add(period_id)


def replace_alert_rules(
    session: Session, organization_id: UUID, inputs: Sequence[AlertRuleInput], actor: Actor
) -> Sequence[AlertRule]:
    """Replace all alert rules of an organization. A rule that stays does not fire again in this period.

    raises: ValidationFailed for an unknown meter or a duplicate rule; OrganizationNotFound
    """
    periods.ensure_account(session, organization_id)
    codes = meters.all_meters(session)
    for index, rule_input in enumerate(inputs):
        if rule_input.meter is not None and rule_input.meter not in codes:
            raise ValidationFailed.at_field(f"alerts.{index}.meter", "There is no such meter.")
        if rule_input in inputs[:index]:
            raise ValidationFailed.at_field(f"alerts.{index}", "This alert stands here twice.")
    session.execute(_LOCK_RULES, {"organization_id": organization_id})
    old = {
        AlertRuleInput(rule.subject, rule.meter_code, rule.threshold): rule for rule in _rules(session, organization_id)
    }
    before = [_summary(rule) for rule in old.values()]
    for rule_input in inputs:
        rule = old.get(rule_input) or _add_rule(session, organization_id, rule_input)
        rule.enabled = rule_input.is_enabled
    for rule_input in old.keys() - set(inputs):
        session.delete(old[rule_input])
    session.flush()
    rules = _rules(session, organization_id)
    data = {"before": before, "after": [_summary(rule) for rule in rules]}
    audit.record_event(session, organization_id, actor, "alerts.changed", ("organization", organization_id), data)
    return rules


def _add_rule(session: Session, organization_id: UUID, rule_input: AlertRuleInput) -> AlertRule:
    rule = AlertRule(
        organization_id=organization_id,
        id=ids.new_id(),
        subject=rule_input.subject,
        meter_code=rule_input.meter,
        threshold=rule_input.threshold,
    )
    session.add(rule)
    return rule


def _summary(rule: AlertRule) -> str:
    return f"{rule.subject} {rule.meter_code or ''} {money.format_unit_price(rule.threshold)}".replace("  ", " ")


def _get_context(session: SystemSession, organization_id: UUID, period_id: UUID) -> _AlertContext:
    return _AlertContext(
        organization_id,
        session.get_one(BillingPeriod, (organization_id, period_id)),
        session.get_one(BillingProfile, organization_id),
        period_spend.get_period_spend(session, organization_id, period_id),
    )


def _rules(session: Session, organization_id: UUID) -> Sequence[AlertRule]:
    rules = select(AlertRule).where(AlertRule.organization_id == organization_id)
    return session.scalars(rules.order_by(AlertRule.subject, AlertRule.meter_code, AlertRule.threshold)).all()


def _fire(session: SystemSession, context: _AlertContext, due: Sequence[tuple[AlertRule, Decimal]]) -> None:
    """Publish an event for each enabled rule that has not fired in this period, and mail the highest threshold.

    A lowered cap passes several thresholds at once; one mail for a subject and meter says it.

    due: rules with the value that reached them, in ascending order of thresholds
    """
    highest: dict[tuple[str, str | None], AlertRule] = {}
    for rule, observed in due:
        if rule.enabled and _record_firing(session, context, rule, observed):
            highest[rule.subject, rule.meter_code] = rule
            events.publish(
                session,
                context.organization_id,
                "usage.threshold_reached",
                EventSubject(rule.id, context.period.seq),
                event_types.dump_data("usage.threshold_reached", _event_resource(context, rule)),
            )
    for rule in highest.values():
        _enqueue_mails(session, context, rule)


def _record_firing(session: SystemSession, context: _AlertContext, rule: AlertRule, observed: Decimal) -> bool:
    """Whether the rule fires now, for the first time in this period. A concurrent call waits for the insert."""
    row = insert(AlertFiring).values(
        organization_id=context.organization_id,
        rule_id=rule.id,
        billing_period_id=context.period.id,
        observed=observed,
        fired_at=clock.now(),
    )
    return session.execute(row.on_conflict_do_nothing().returning(AlertFiring.rule_id)).first() is not None


def _enqueue_mails(session: SystemSession, context: _AlertContext, rule: AlertRule) -> None:
    with organizations.localized(session, context.organization_id) as organization:
        meter = meters.all_meters(session)[rule.meter_code].name if rule.meter_code else ""
        email_context = _email_context(context, rule, meter)
        period_end = mails.format_time(context.period.ends_at, context.period.timezone)
    for contact in members.list_recipients(session, context.organization_id, ALERT_CONTACT_ROLES):
        mails.enqueue(
            session,
            "usage_alert",
            contact.email,
            organization_id=context.organization_id,
            name=contact.name,
            organization=organization.name,
            period_end=period_end,
            **email_context,
        )


def _email_context(context: _AlertContext, rule: AlertRule, meter: str) -> dict[str, str]:
    """Values of the mail.

    meter: name of the rule's meter, if it has one
    """
    currency, quantity = context.profile.currency, _watched(context, rule)[0]
    used = (
        formatting.format_cost(context.spent.total_major, currency)
        if rule.meter_code is None
        else formatting.format_number(quantity)
    )
    match rule.subject:
        case AlertSubject.SPEND_PERCENT_OF_CAP:
            what, limit = "spend cap", formatting.format_money(context.profile.spend_cap_minor or 0, currency)
        case AlertSubject.PERCENT_OF_INCLUDED:
            what, limit = f"included {meter}", formatting.format_number(_included(context, rule))
        case AlertSubject.SPEND:
            what, limit = "spend alert", formatting.format_cost(rule.threshold, currency)
        case _:
            what, limit = f"{meter} alert", formatting.format_number(rule.threshold)
    share = rule.threshold.scaleb(-2) if "percent" in rule.subject else Decimal(1)
    return {"what": what, "percent": formatting.format_percent(share), "used": used, "limit": limit}


def _event_resource(context: _AlertContext, rule: AlertRule) -> dict[str, Any]:
    quantity, included = (_watched(context, rule)[0], _included(context, rule)) if rule.meter_code else (None, None)
    return {
        "meter": rule.meter_code,
        "percent": int(rule.threshold) if "percent" in rule.subject else None,
        "quantity": None if quantity is None else int(quantity),
        "included": None if included is None else int(included),
        "spent": None if rule.meter_code else context.spent.total_major,
        "cap_minor": None if rule.meter_code else context.profile.spend_cap_minor,
        "currency": context.profile.currency,
        "period_end": _last_day(context),
    }


def _included(context: _AlertContext, rule: AlertRule) -> Decimal:
    _, price = _watched(context, rule)
    return price.included_quantity if price else Decimal(0)


def _last_day(context: _AlertContext) -> date:
    return context.period.ends_at.astimezone(time_zones.get_zone(context.period.timezone)).date()


def _publish_cap_reached(session: SystemSession, context: _AlertContext) -> None:
    state = spend_cap.build_cap_state(context.profile, context.period, context.spent)
    data = event_types.dump_data("spend_cap.reached", state)
    events.publish(session, context.organization_id, "spend_cap.reached", EventSubject(context.period.id), data)
