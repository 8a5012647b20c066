"""Plans: what is offered, what the organization is on, changing it, and what real usage would cost on another."""

from typing import Any

from flask import Blueprint, g

from saas_api.billing import service as billing
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.queries.catalogue import PlanOffer
from saas_api.billing.rules.bill import Draft, Version
from saas_api.billing.rules.rating import Price
from saas_api.billing.schemas.plans import (
    ChangePlanIn,
    PlansOut,
    PreviewChangeOut,
    SimulateIn,
    SimulateOut,
    SubscriptionOut,
    UpgradeOut,
)
from saas_api.core import clock
from saas_api.core.access import public, require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text, unit_price_text
from saas_api.organizations import service as organizations
from saas_api.organizations.service.audit import actor_of

bp = Blueprint("plans", __name__)
_CHANGE_ERRORS = (Invalid, billing.InvalidPlan, billing.SamePlan, billing.NoOpenPeriod)


@bp.get("/billing/plans")
@public
@endpoint(operation_id="list_plans", tag="billing", returns=PlansOut())
def list_plans() -> dict[str, Any]:
    """List the plans anybody may choose, with their prices."""
    units = catalogue.units(session())
    return {"plans": [_plan(offer, units) for offer in catalogue.offers(session())]}


@bp.get("/billing/subscription")
@require("billing:read")
@endpoint(operation_id="get_subscription", tag="billing", returns=SubscriptionOut())
def show_subscription() -> dict[str, Any]:
    """Show the plan the organization is on, its running period, and a change that is scheduled."""
    organization_id = g.principal.organization_id
    billing.ensure_account(session(), organization_id)
    now = clock.now()
    billing.ensure_period(session(), organization_id, now)
    found = plans.held(session(), organization_id, now)
    subscription, coming = found.subscription, found.scheduled
    return {
        "id": subscription.id,
        "state": subscription.state,
        "standing": subscription.standing,
        "started_at": subscription.started_at,
        "anchor_day": subscription.anchor_day,
        "plan": _named(found.version),
        "plan_since": found.stage.starts_at,
        "period": found.period,
        "scheduled_change": coming and {**_named(coming[1]), "effective_at": coming[0].starts_at},
    }


@bp.post("/billing/upgrade")
@require("billing:write")
@endpoint(operation_id="change_plan", tag="billing", body=ChangePlanIn(), returns=UpgradeOut(), errors=_CHANGE_ERRORS)
def upgrade(body: dict[str, Any]) -> dict[str, Any]:
    """Change the plan, up or down, at once or when the period ends; the plan one is on calls a scheduled change off."""
    organization_id = g.principal.organization_id
    change = billing.change_plan(session(), organization_id, body["plan"], body["when"], actor_of(g.principal))
    organization = organizations.get(session(), organization_id)
    return {
        "organization": {
            "id": organization.id,
            "name": organization.name,
            "plan": change.plan_in_force,
            "updated_at": organization.updated_at,
        },
        "change": _change(change),
    }


@bp.post("/billing/preview-change")
@require("billing:read")
@endpoint(
    operation_id="preview_plan_change",
    tag="billing",
    body=ChangePlanIn(),
    returns=PreviewChangeOut(),
    errors=_CHANGE_ERRORS,
)
def preview_change(body: dict[str, Any]) -> dict[str, Any]:
    """Show what a change of plan would do to the running period's bill; nothing is changed."""
    change = billing.look_at_change(session(), g.principal.organization_id, body["plan"], body["when"])
    return {
        "period": change.period,
        "current": _draft(change.before),
        "changed": _draft(change.after),
        "difference": minor_to_text(change.total_minor, change.version.currency),
        "change": _change(change),
    }


@bp.post("/billing/simulate")
@require("billing:read")
@endpoint(
    operation_id="simulate_plan",
    tag="billing",
    body=SimulateIn(),
    returns=SimulateOut(),
    errors=(Invalid, billing.InvalidPlan, billing.NoRunningPeriod),
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
                "total_amount": minor_to_text(found.total_minor, found.version.currency),
                "currency": found.version.currency,
                "periods": [
                    {"starts_at": part.starts_at, "ends_at": part.ends_at, **_draft(part.draft)}
                    for part in found.periods
                ],
            }
            for found in billing.simulate(session(), g.principal.organization_id, *wanted)
        ]
    }


def _plan(offer: PlanOffer, units: dict[str, str]) -> dict[str, Any]:
    version = offer.version
    return {
        **_named(version),
        "code": offer.code,
        "min_spend": minor_to_text(version.min_spend_minor, version.currency),
        "rate_limit_per_minute": offer.rate_limit,
        "prices": [
            _price(meter, units[meter], price, version.currency) for meter, price in sorted(version.prices.items())
        ],
    }


def _price(meter: str, unit: str, price: Price, currency: str) -> dict[str, Any]:
    is_package, most = price.model == "package", price.max_amount_minor
    return {
        "meter": meter,
        "unit": unit,
        "model": price.model,
        "included": unit_price_text(price.included_quantity),
        "unit_price": unit_price_text(price.unit_price) if price.model == "per_unit" else None,
        "tiers": [
            {
                "up_to": None if tier.up_to is None else unit_price_text(tier.up_to),
                "unit_price": unit_price_text(tier.unit_price),
                "flat_amount": minor_to_text(tier.flat_minor, currency),
            }
            for tier in price.tiers
        ],
        "package": {
            "size": unit_price_text(price.package_size),
            "amount": minor_to_text(price.package_amount_minor, currency),
        }
        if is_package
        else None,
        "max_amount": None if most is None else minor_to_text(most, currency),
    }


def _named(version: Version) -> dict[str, Any]:
    return {
        "code": catalogue.plan_of(version.id),
        "name": version.name,
        "version": version.id,
        "base_amount": minor_to_text(version.base_amount_minor, version.currency),
        "currency": version.currency,
    }


def _change(change: billing.Change) -> dict[str, Any]:
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
                "amount": minor_to_text(shift.amount_minor, currency),
            }
            for shift in change.shifts
        ],
        "total": minor_to_text(change.total_minor, currency),
        "currency": currency,
    }


def _draft(draft: Draft) -> dict[str, Any]:
    return {
        "lines": [
            {
                "kind": line.kind,
                "description": line.description,
                "plan": line.version_id,
                "meter": line.meter,
                "quantity": unit_price_text(line.quantity),
                "amount": minor_to_text(line.amount_minor, draft.currency),
            }
            for line in draft.lines
        ],
        "total_amount": minor_to_text(draft.total_minor, draft.currency),
        "currency": draft.currency,
    }
