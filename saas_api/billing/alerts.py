"""Alert rules, evaluate_alerts, notify_cap_reached."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import period_spend, periods, plans, spend_cap
from saas_api.billing.models import AlertFiring, AlertRule, BillingPeriod, BillingProfile
from saas_api.billing.period_spend import PeriodSpend
from saas_api.billing.rating import thresholds
from saas_api.billing.rating.thresholds import AlertRuleInput
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.core.observability import get_logger
from saas_api.mail import mails
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject

log = get_logger(__name__)

_RULES = text("""
SELECT r.id, r.subject, r.meter_code, r.threshold, r.enabled, f.fired_at
FROM alert_rules r LEFT JOIN alert_firings f ON f.organization_id = r.organization_id AND f.rule_id = r.id
  AND f.billing_period_id = :period_id
WHERE r.organization_id = :organization_id ORDER BY r.subject, r.meter_code, r.threshold""")


def list_alert_rules(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[Row[Any]]:
    """All rules: id, subject, meter_code, threshold, enabled, fired_at."""
    return session.execute(_RULES, {"organization_id": organization_id, "period_id": period_id}).all()


BILLING_CONTACT_ROLES = ("owner", "admin", "billing")
# Usage of the last day, for a reversal counts in the hour of what it takes back; late usage lies anywhere.
_USED_LATELY = text("""
SELECT p.organization_id, p.id FROM billing_periods p
WHERE p.state = 'open' AND p.starts_at <= :at AND (EXISTS (
    SELECT FROM usage_rollups r WHERE r.organization_id = p.organization_id AND r.billing_period_id = p.id
      AND (r.bucket_at > CAST(:at AS timestamptz) - interval '26 hours' OR r.is_late))
  OR EXISTS (SELECT FROM usage_watermark w, usage_events e WHERE e.organization_id = p.organization_id
      AND e.billing_period_id = p.id AND e.recorded_xid >= w.through_xid AND e.recorded_at > w.floor_at))
ORDER BY p.organization_id, p.seq""")

_LOCK_RULES = text("SELECT 1 FROM billing_profiles WHERE organization_id = :organization_id FOR UPDATE")
_notified: set[UUID] = set()
_notified_lock = threading.Lock()


@dataclass(frozen=True)
class _AlertContext:
    """What the rules of one organization are held against."""

    organization_id: UUID
    period: BillingPeriod
    profile: BillingProfile
    spent: PeriodSpend


def evaluate_alerts(now: datetime) -> None:
    """Raise what is due for everybody with usage of late, and set the gate's counters right.

    raises: RuntimeError when that failed for somebody, so that the run counts as failed
    """
    with tenancy.system_session("billing.alerts") as session:
        rows = session.execute(_USED_LATELY, {"at": now}).all()
    failed = 0
    for row in rows:
        try:
            _evaluate_organization(row.organization_id, row.id)
        except Exception:
            failed += 1
            log.exception("alerts_failed", organization_id=str(row.organization_id))
    if failed:
        raise RuntimeError(f"{failed} organizations could not be looked at; see the log")


def _evaluate_organization(organization_id: UUID, period_id: UUID) -> None:
    with tenancy.system_session("billing.alerts") as session:
        case = _case(session, organization_id, period_id)
        spend_cap.reconcile_counters(session, organization_id, period_id, case.spent)
        for rule in _rules(session, organization_id):
            seen = _observed(case, rule)
            if rule.enabled and seen is not None and seen >= rule.threshold:
                _fire(session, case, rule, seen)
        cap = case.profile.spend_cap_minor
        if cap is not None and case.profile.spend_cap_action == "alert" and case.spent.total >= cap:
            _publish_cap(session, case)


def _observed(case: _AlertContext, rule: AlertRule) -> Decimal | None:
    meter, cap = rule.meter_code or "", case.profile.spend_cap_minor
    places = -money.currency_exponent(case.profile.currency)
    return thresholds.observed_value(
        rule.subject,
        case.spent.total.scaleb(places),
        None if cap is None else Decimal(cap).scaleb(places),
        case.spent.metered.get(meter, Decimal(0)),
        case.spent.version.prices.get(meter),
    )


def notify_cap_reached(organization_id: UUID, period_id: UUID) -> None:
    """Tell that a call was stopped by the cap, once a period; what is told already costs nothing.

    Never raises: the refusal is given in any case, and the next one tries again.
    """
    with _notified_lock:
        if period_id in _notified:
            return
    try:
        with tenancy.system_session("billing.alerts") as session:
            case = _case(session, organization_id, period_id)
            _publish_cap(session, case)
            for rule in _rules(session, organization_id):
                if rule.enabled and rule.subject == "spend_percent_of_cap" and rule.threshold <= 100:
                    _fire(session, case, rule, Decimal(100))
    except Exception:
        log.exception("cap_untold", organization_id=str(organization_id))
        return
    with _notified_lock:
        _notified.add(period_id)


def replace_alert_rules(
    session: Session, organization_id: UUID, wanted: Sequence[AlertRuleInput], actor: Actor
) -> Sequence[AlertRule]:
    """Put other rules in place of all there are; one that stays keeps what it has raised in this period.

    raises: Invalid for an unknown meter, or the same alert twice; NoSuchOrganization
    """
    periods.ensure_account(session, organization_id)
    meters = plans.meter_units(session)
    for index, rule in enumerate(wanted):
        if rule.meter is not None and rule.meter not in meters:
            raise ValidationFailed.at_field(f"alerts.{index}.meter", "There is no such meter.")
        if rule in wanted[:index]:
            raise ValidationFailed.at_field(f"alerts.{index}", "This alert stands here twice.")
    session.execute(_LOCK_RULES, {"organization_id": organization_id})
    kept: list[UUID] = []
    old = {
        AlertRuleInput(rule.subject, rule.meter_code, rule.threshold): rule for rule in _rules(session, organization_id)
    }
    before = [_summary(rule) for rule in old.values()]
    for rule in wanted:
        found = old.get(rule)
        if found is None:
            found = AlertRule(
                organization_id=organization_id,
                id=ids.new_id(),
                subject=rule.subject,
                meter_code=rule.meter,
                threshold=rule.threshold,
            )
            session.add(found)
        found.enabled = rule.is_enabled
        kept.append(found.id)
    session.flush()
    session.execute(delete(AlertRule).where(AlertRule.organization_id == organization_id, AlertRule.id.not_in(kept)))
    rules = _rules(session, organization_id)
    changed = {"before": before, "after": [_summary(rule) for rule in rules]}
    audit.record_event(session, organization_id, actor, "alerts.changed", ("organization", organization_id), changed)
    return rules


def _summary(rule: AlertRule) -> str:
    return f"{rule.subject} {rule.meter_code or ''} {money.format_unit_price(rule.threshold)}".replace("  ", " ")


def _case(session: Session, organization_id: UUID, period_id: UUID) -> _AlertContext:
    periods = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    profiles = select(BillingProfile).where(BillingProfile.organization_id == organization_id)
    return _AlertContext(
        organization_id,
        session.scalars(periods.where(BillingPeriod.id == period_id)).one(),
        session.scalars(profiles).one(),
        period_spend.get_period_spend(session, organization_id, period_id),
    )


def _rules(session: Session, organization_id: UUID) -> Sequence[AlertRule]:
    owned = select(AlertRule).where(AlertRule.organization_id == organization_id)
    return session.scalars(owned.order_by(AlertRule.subject, AlertRule.meter_code, AlertRule.threshold)).all()


def _fire(session: Session, case: _AlertContext, rule: AlertRule, seen: Decimal) -> None:
    """Mail and publish, unless somebody has in this period; of two that race, one inserts and the other waits."""
    row = insert(AlertFiring).values(
        organization_id=case.organization_id,
        rule_id=rule.id,
        billing_period_id=case.period.id,
        observed=seen,
        fired_at=clock.now(),
    )
    fired = session.execute(row.on_conflict_do_nothing().returning(AlertFiring.rule_id)).first()
    if fired is None:
        return
    words = _email_context(case, rule)
    organization = organizations.get(session, case.organization_id)
    for reader in members.list_recipients(session, case.organization_id, BILLING_CONTACT_ROLES):
        mails.enqueue(
            session,
            "usage_alert",
            reader.email,
            organization_id=case.organization_id,
            name=reader.name,
            organization=organization.name,
            period_end=_last_day(case),
            **words,
        )
    events.publish(
        session,
        case.organization_id,
        "usage.threshold_reached",
        EventSubject(rule.id, case.period.seq),
        _data(case, rule),
    )


def _email_context(case: _AlertContext, rule: AlertRule) -> dict[str, str]:
    currency, quantity = case.profile.currency, case.spent.metered.get(rule.meter_code or "", Decimal(0))
    is_money = rule.meter_code is None
    used = _money(case.spent.total, currency) if is_money else money.format_unit_price(quantity)
    match rule.subject:
        case "spend_percent_of_cap":
            what, limit = "spend cap", money.format_minor(case.profile.spend_cap_minor or 0, currency)
        case "percent_of_included":
            what, limit = f"included {rule.meter_code}", money.format_unit_price(_included(case, rule))
        case "spend":
            what, limit = "spend alert", money.format_exact_amount(rule.threshold)
        case _:
            what, limit = f"{rule.meter_code} alert", money.format_unit_price(rule.threshold)
    percent = money.format_unit_price(rule.threshold) if "percent" in rule.subject else "100"
    suffix = f" {currency}" if is_money else ""
    return {"what": what, "percent": percent, "used": used + suffix, "limit": limit + suffix}


def _data(case: _AlertContext, rule: AlertRule) -> dict[str, Any]:
    quantity = case.spent.metered.get(rule.meter_code or "")
    included = _included(case, rule) if rule.meter_code else None
    cap = case.profile.spend_cap_minor
    return {
        "object": "usage",
        "meter": rule.meter_code,
        "percent": int(rule.threshold) if "percent" in rule.subject else None,
        "quantity": None if quantity is None else int(quantity),
        "included": None if included is None else int(included),
        "spent": None if rule.meter_code else _money(case.spent.total, case.profile.currency),
        "cap": None if rule.meter_code or cap is None else money.format_minor(cap, case.profile.currency),
        "period_end": _last_day(case),
    }


def _included(case: _AlertContext, rule: AlertRule) -> Decimal:
    price = case.spent.version.prices.get(rule.meter_code or "")
    return price.included_quantity if price else Decimal(0)


def _money(minor: Decimal, currency: str) -> str:
    with localcontext(prec=DECIMAL_PRECISION):
        return money.format_exact_amount(minor.scaleb(-money.currency_exponent(currency)))


def _last_day(case: _AlertContext) -> str:
    return case.period.ends_at.astimezone(clock.get_zone(case.period.timezone)).date().isoformat()


def _publish_cap(session: Session, case: _AlertContext) -> None:
    data: Mapping[str, Any] = {
        "object": "spend_cap",
        "amount": money.format_minor(case.profile.spend_cap_minor or 0, case.profile.currency),
        "currency": case.profile.currency,
        "action": case.profile.spend_cap_action,
    }
    subject = EventSubject(case.period.id)
    events.publish(session, case.organization_id, "spend_cap.reached", subject, data)
