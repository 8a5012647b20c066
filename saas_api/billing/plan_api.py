"""Plans, subscription, change, preview, simulation."""

from typing import Any

from flask import Blueprint, g

from saas_api.accounts import audit, organizations
from saas_api.billing import periods, plans, previews, subscriptions
from saas_api.billing.plan_schemas import (
    ChangedPlanOut,
    ChangePlanIn,
    PlanChangePreviewOut,
    PlansOut,
    SimulateIn,
    SimulateOut,
    SubscriptionOut,
)
from saas_api.billing.plans import PlanOffer
from saas_api.billing.previews import NoCurrentPeriod
from saas_api.billing.rating.bill import Bill, RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.subscriptions import AlreadyOnPlan, InvalidPlan, NoOpenPeriod, PlanChange
from saas_api.core import clock, money
from saas_api.core.access import public_view, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint

bp = Blueprint("billing_plans", __name__)
_CHANGE_ERRORS = (ValidationFailed, InvalidPlan, AlreadyOnPlan, NoOpenPeriod)


@bp.get("/billing/plans")
@public_view
@endpoint(operation_id="list_plans", tag="billing", returns=PlansOut())
def list_plans() -> dict[str, Any]:
    """List the plans anybody may choose, with their prices."""
    units = plans.meter_units(engine.session())
    return {"plans": [_plan(offer, units) for offer in plans.list_offers(engine.session())]}


@bp.get("/billing/subscription")
@require_permission("billing:read")
@endpoint(operation_id="get_subscription", tag="billing", returns=SubscriptionOut())
def show_subscription() -> dict[str, Any]:
    """Show the plan the organization is on, its running period, and a change that is scheduled."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    now = clock.now()
    periods.ensure_period(engine.session(), organization_id, now)
    found = subscriptions.get_subscription(engine.session(), organization_id, now)
    subscription, coming = found.subscription, found.scheduled
    return {
        "id": subscription.id,
        "state": subscription.status,
        "standing": subscription.standing,
        "started_at": subscription.started_at,
        "anchor_day": subscription.anchor_day,
        "plan": _plan_summary(found.version),
        "plan_since": found.segment.starts_at,
        "period": found.period,
        "scheduled_change": coming and {**_plan_summary(coming[1]), "effective_at": coming[0].starts_at},
    }


@bp.post("/billing/upgrade")
@require_permission("billing:write")
@endpoint(
    operation_id="change_plan", tag="billing", body=ChangePlanIn(), returns=ChangedPlanOut(), errors=_CHANGE_ERRORS
)
def change_plan(body: dict[str, Any]) -> dict[str, Any]:
    """Change the plan, up or down, at once or when the period ends; the plan one is on calls a scheduled change off."""
    organization_id = g.principal.organization_id
    change = subscriptions.change_plan(
        engine.session(), organization_id, body["plan"], body["when"], audit.actor_for(g.principal)
    )
    organization = organizations.get(engine.session(), organization_id)
    return {
        "organization": {
            "id": organization.id,
            "name": organization.name,
            "plan": change.plan_in_force,
            "updated_at": organization.updated_at,
        },
        "change": _change_body(change),
    }


@bp.post("/billing/preview-change")
@require_permission("billing:read")
@endpoint(
    operation_id="preview_plan_change",
    tag="billing",
    body=ChangePlanIn(),
    returns=PlanChangePreviewOut(),
    errors=_CHANGE_ERRORS,
)
def preview_change(body: dict[str, Any]) -> dict[str, Any]:
    """Show what a change of plan would do to the running period's bill; nothing is changed."""
    change = subscriptions.preview_change(engine.session(), g.principal.organization_id, body["plan"], body["when"])
    return {
        "period": change.period,
        "current": _bill_body(change.before),
        "changed": _bill_body(change.after),
        "difference": money.format_minor(change.total_minor, change.version.currency),
        "change": _change_body(change),
    }


@bp.post("/billing/simulate")
@require_permission("billing:read")
@endpoint(
    operation_id="simulate_plan",
    tag="billing",
    body=SimulateIn(),
    returns=SimulateOut(),
    errors=(ValidationFailed, InvalidPlan, NoCurrentPeriod),
)
def simulate(body: dict[str, Any]) -> dict[str, Any]:
    """Show what the real usage of periods, or given quantities in a month, would cost on each plan."""
    wanted = body["plans"], body["periods"], body["quantities"]
    return {
        "plans": [
            {
                "plan": found.plan,
                "version": found.version.id,
                "is_current": found.is_current,
                "total_amount": money.format_minor(found.total_minor, found.version.currency),
                "currency": found.version.currency,
                "periods": [
                    {"starts_at": part.starts_at, "ends_at": part.ends_at, **_bill_body(part.bill)}
                    for part in found.periods
                ],
            }
            for found in previews.simulate_plans(engine.session(), g.principal.organization_id, *wanted)
        ]
    }


def _plan(offer: PlanOffer, units: dict[str, str]) -> dict[str, Any]:
    version = offer.version
    return {
        **_plan_summary(version),
        "code": offer.code,
        "min_spend": money.format_minor(version.min_spend_minor, version.currency),
        "rate_limit_per_minute": offer.rate_limit,
        "prices": [
            _price(meter, units[meter], price, version.currency) for meter, price in sorted(version.prices.items())
        ],
    }


def _price(meter: str, unit: str, price: MeterPrice, currency: str) -> dict[str, Any]:
    is_package, most = price.model == "package", price.max_amount_minor
    return {
        "meter": meter,
        "unit": unit,
        "model": price.model,
        "included": money.format_unit_price(price.included_quantity),
        "unit_price": money.format_unit_price(price.unit_price) if price.model == "per_unit" else None,
        "tiers": price.tiers,
        "package": {
            "size": money.format_unit_price(price.package_size),
            "amount": money.format_minor(price.package_amount_minor, currency),
        }
        if is_package
        else None,
        "max_amount": None if most is None else money.format_minor(most, currency),
    }


def _plan_summary(version: RatedPlanVersion) -> dict[str, Any]:
    return {
        "code": plans.plan_for_version(version.id),
        "name": version.name,
        "version": version.id,
        "base_amount": money.format_minor(version.base_amount_minor, version.currency),
        "currency": version.currency,
    }


def _change_body(change: PlanChange) -> dict[str, Any]:
    currency = change.version.currency
    return {
        "plan": change.plan,
        "version": change.version.id,
        "previous_version": change.previous,
        "effective_at": change.effective_at,
        "is_scheduled": change.is_scheduled,
        "lines": [
            {
                "kind": shift.kind,
                "description": shift.description,
                "plan": shift.version_id,
                "meter": shift.meter,
                "amount": money.format_minor(shift.amount_minor, currency),
            }
            for shift in change.differences
        ],
        "total": money.format_minor(change.total_minor, currency),
        "currency": currency,
    }


def _bill_body(draft: Bill) -> dict[str, Any]:
    return {
        "lines": [
            {
                "kind": line.kind,
                "description": line.description,
                "plan": line.version_id,
                "meter": line.meter,
                "quantity": money.format_unit_price(line.quantity),
                "amount": money.format_minor(line.amount_minor, draft.currency),
            }
            for line in draft.lines
        ],
        "total_amount": money.format_minor(draft.total_minor, draft.currency),
        "currency": draft.currency,
    }
