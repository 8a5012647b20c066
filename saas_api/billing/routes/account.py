"""The spend cap, and alerts about spend and usage."""

from typing import Any

from flask import Blueprint, g

from saas_api.billing import service as billing
from saas_api.billing.queries import alerts
from saas_api.billing.rules.thresholds import Wanted
from saas_api.billing.schemas.account import AlertsIn, AlertsOut, SpendCapIn, SpendCapOut
from saas_api.billing.service import CapState
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import amount_text, exponent, minor_to_text, unit_price_text
from saas_api.organizations.service.audit import actor_of

bp = Blueprint("account", __name__)


@bp.put("/billing/spend-cap")
@require("spend-cap:write")
@endpoint(operation_id="set_spend_cap", tag="billing", body=SpendCapIn(), returns=SpendCapOut(), errors=(Invalid,))
def set_spend_cap(body: dict[str, Any]) -> dict[str, Any]:
    """Cap what a period may cost, base included, from the next request on; null removes the cap."""
    organization_id, actor = g.principal.organization_id, actor_of(g.principal)
    return _cap(billing.set_cap(session(), organization_id, body["amount"], body["action"], actor))


@bp.get("/billing/alerts")
@require("billing:read")
@endpoint(operation_id="list_alerts", tag="billing", returns=AlertsOut())
def list_alerts() -> dict[str, Any]:
    """List the alerts with what they raised in the running period, and the spend cap."""
    return _alerts()


@bp.put("/billing/alerts")
@require("spend-cap:write")
@endpoint(operation_id="set_alerts", tag="billing", body=AlertsIn(), returns=AlertsOut(), errors=(Invalid,))
def set_alerts(body: dict[str, Any]) -> dict[str, Any]:
    """Replace all alerts; each is raised at most once a period."""
    rules = [Wanted(row["subject"], row["meter"], row["threshold"], row["enabled"]) for row in body["alerts"]]
    billing.change_rules(session(), g.principal.organization_id, rules, actor_of(g.principal))
    return _alerts()


def _alerts() -> dict[str, Any]:
    organization_id = g.principal.organization_id
    state = billing.cap_state(session(), organization_id)
    return {
        "alerts": [
            {
                "id": row.id,
                "subject": row.subject,
                "meter": row.meter_code,
                "threshold": unit_price_text(row.threshold),
                "enabled": row.enabled,
                "fired_at": row.fired_at,
            }
            for row in alerts.rules(session(), organization_id, state.period_id)
        ],
        "spend_cap": _cap(state),
    }


def _cap(state: CapState) -> dict[str, Any]:
    return {
        "amount": None if state.amount_minor is None else minor_to_text(state.amount_minor, state.currency),
        "action": state.action,
        "is_default": state.is_default,
        "base": minor_to_text(state.spent.base_minor, state.currency),
        "used": amount_text(state.spent.total.scaleb(-exponent(state.currency))),
        "currency": state.currency,
    }
