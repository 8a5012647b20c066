"""HTTP API of plans: the public plans, the subscription, plan changes and their previews, and simulations."""

from typing import Any

from flask import Blueprint, g

from saas_api.accounts import audit, organizations
from saas_api.accounts.organizations import OrganizationClosed
from saas_api.billing import periods, plans, previews, subscriptions
from saas_api.billing.currencies import CurrencyFixed
from saas_api.billing.current_period import NoCurrentPeriod
from saas_api.billing.plan_schemas import (
    ChangedPlanOut,
    ChangePlanIn,
    PlanChangePreviewOut,
    PlansOut,
    PlansQuery,
    SimulateIn,
    SimulateOut,
    SubscriptionOut,
)
from saas_api.billing.subscriptions import (
    AlreadyOnPlan,
    CurrentSubscription,
    InvalidPlan,
    NoOpenPeriod,
    PlanChange,
    SpendCapTooLow,
    UpgradeRestricted,
)
from saas_api.core import clock, money
from saas_api.core.access import public_view, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint

bp = Blueprint("billing_plans", __name__)
_CHANGE_ERRORS = (
    ValidationFailed,
    InvalidPlan,
    AlreadyOnPlan,
    CurrencyFixed,
    UpgradeRestricted,
    OrganizationClosed,
    NoOpenPeriod,
)


@bp.get("/billing/plans")
@public_view
@endpoint(operation_id="list_plans", tag="billing", query=PlansQuery(), returns=PlansOut(), errors=(ValidationFailed,))
def list_plans(query: dict[str, Any]) -> dict[str, Any]:
    """List the public plans with their prices; the plan `free` is in the currency of the query, or in USD."""
    currency = query["currency"]
    offers = plans.list_offers(engine.session(), currency or money.DEFAULT_CURRENCY)
    return {"plans": [offer for offer in offers if currency in (None, offer.currency)]}


@bp.get("/billing/subscription")
@require_permission("billing:read")
@endpoint(operation_id="get_subscription", tag="billing", returns=SubscriptionOut())
def show_subscription() -> CurrentSubscription:
    """Show the plan of the organization, its current period, and a scheduled change."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    now = clock.now()
    periods.ensure_period(engine.session(), organization_id, now)
    return subscriptions.get_subscription(engine.session(), organization_id, now)


@bp.post("/billing/upgrade")
@require_permission("billing:write")
@endpoint(
    operation_id="change_plan",
    tag="billing",
    body=ChangePlanIn(),
    returns=ChangedPlanOut(),
    errors=(*_CHANGE_ERRORS, SpendCapTooLow),
)
def change_plan(body: dict[str, Any]) -> dict[str, Any]:
    """Change the plan, now or at the end of the period. The current plan cancels a scheduled change.

    The first plan in another currency makes it the currency of the organization; the first invoice above zero fixes it.
    """
    organization_id = g.principal.organization_id
    change = subscriptions.change_plan(
        engine.session(),
        organization_id,
        body["plan"],
        body["when"],
        audit.actor_for(g.principal),
        is_cap_confirmed=body["confirm_spend_cap"],
    )
    organization = organizations.get_organization(engine.session(), organization_id)
    return {
        "organization": {
            "id": organization.id,
            "name": organization.name,
            "plan": change.plan_in_force,
            "updated_at": organization.updated_at,
        },
        "change": change,
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
def preview_change(body: dict[str, Any]) -> PlanChange:
    """Preview the effect of a plan change on the bill of the current period; nothing is changed."""
    return subscriptions.preview_change(engine.session(), g.principal.organization_id, body["plan"], body["when"])


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
    """Calculate what recorded usage, or given quantities of a month, would cost on each plan."""
    return {
        "plans": previews.simulate_plans(
            engine.session(), g.principal.organization_id, body["plans"], body["periods"], body["quantities"]
        )
    }
