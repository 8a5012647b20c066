"""`GET /billing/plans`, `/billing/calculate` and `/billing/history`: what is offered, owed so far, and billed."""

from typing import Any

from flask import Blueprint, g

from saas_api.billing import service as billing
from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.catalogue import PlanOffer
from saas_api.billing.queries.invoices import Billed, history, totals
from saas_api.billing.rules.bill import Draft, Line
from saas_api.billing.rules.rating import Price
from saas_api.billing.schemas.invoices import CalculateOut, HistoryOut, HistoryQuery, PlansOut
from saas_api.core.access import public, require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text, unit_price_text

bp = Blueprint("invoices", __name__)
CURRENCY = "USD"


@bp.get("/billing/plans")
@public
@endpoint(returns=PlansOut())
def list_plans() -> dict[str, Any]:
    """List the plans anybody may choose, with their prices."""
    units = catalogue.units(session())
    return {"plans": [_plan(offer, units) for offer in catalogue.offers(session())]}


@bp.get("/billing/calculate")
@require("billing:read")
@endpoint(returns=CalculateOut())
def calculate() -> dict[str, Any]:
    """Show what closing the running period at this moment would charge."""
    found = billing.preview(session(), g.principal.organization_id)
    draft = found.draft
    return {
        "period": found,
        "total_requests": found.total_requests,
        "lines": [_line(line, draft) for line in draft.lines],
        "total_amount": minor_to_text(draft.total_minor, draft.currency),
        "forecast_amount": minor_to_text(found.forecast.total_minor, draft.currency),
        "currency": draft.currency,
        "status": "calculating",
    }


@bp.get("/billing/history")
@require("billing:read")
@endpoint(query=HistoryQuery(), returns=HistoryOut(), errors=(Invalid,))
def show_history(query: dict[str, Any]) -> dict[str, Any]:
    """List the invoices, newest first, and what they come to."""
    organization_id = g.principal.organization_id
    page = history(session(), organization_id, query)
    sums = totals(session(), organization_id)
    return {
        "invoices": [_invoice(billed) for billed in page.items],
        "summary": {
            "total_billed": minor_to_text(sums.billed_minor, CURRENCY),
            "total_paid": minor_to_text(sums.settled_minor, CURRENCY),
            "outstanding": minor_to_text(sums.outstanding_minor, CURRENCY),
            "currency": CURRENCY,
        },
        "pagination": page.pagination,
    }


def _plan(offer: PlanOffer, units: dict[str, str]) -> dict[str, Any]:
    version = offer.version
    return {
        "code": offer.code,
        "name": offer.name,
        "version": version.id,
        "base_amount": minor_to_text(version.base_amount_minor, version.currency),
        "currency": version.currency,
        "rate_limit_per_minute": offer.rate_limit,
        "prices": [_price(meter, units[meter], price) for meter, price in version.prices.items()],
    }


def _price(meter: str, unit: str, price: Price) -> dict[str, Any]:
    is_unit = price.model == "per_unit"
    return {
        "meter": meter,
        "unit": unit,
        "model": price.model,
        "included": unit_price_text(price.included_quantity),
        "unit_price": unit_price_text(price.unit_price) if is_unit else None,
        "tiers": [
            {
                "up_to": None if tier.up_to is None else unit_price_text(tier.up_to),
                "unit_price": unit_price_text(tier.unit_price),
            }
            for tier in price.tiers
        ],
    }


def _line(line: Line, draft: Draft) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "description": line.description,
        "plan": line.version_id,
        "meter": line.meter,
        "quantity": unit_price_text(line.quantity),
        "amount": minor_to_text(line.amount_minor, draft.currency),
        "calculation": line.calculation,
    }


def _invoice(billed: Billed) -> dict[str, Any]:
    invoice, period = billed.invoice, billed.period
    return {
        "id": invoice.id,
        "number": invoice.number,
        "period": _period(period),
        "total_requests": billed.total_requests,
        "total_amount": minor_to_text(invoice.total_minor, invoice.currency),
        "amount_due": minor_to_text(invoice.due_minor or 0, invoice.currency),
        "currency": invoice.currency,
        "status": invoice.state,
        "due_date": invoice.due_at,
        "paid_at": invoice.paid_at,
    }


def _period(period: BillingPeriod) -> dict[str, Any]:
    return {"starts_at": period.starts_at, "ends_at": period.ends_at, "timezone": period.timezone}
