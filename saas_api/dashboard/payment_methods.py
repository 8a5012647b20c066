"""Pages of saved payment methods and auto-pay."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, url_for

from saas_api.accounts import audit
from saas_api.core import access
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.web import pages
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context, invoices
from saas_api.dashboard.invoices import PROVIDER_LABELS
from saas_api.payments import checkout, payment_methods
from saas_api.payments.schemas import AutoPay, ProviderIn

bp = Blueprint("payment_methods", __name__)
bp.before_request(context.require_live_mode)

LIST = "dashboard.payment_methods.index"


@bp.get("/billing/payment-methods")
@require_permission("billing:read")
def index(form: Form | None = None) -> Response:
    """Show the saved methods, the default one first, and the switch of auto-pay."""
    session, organization_id = engine.session(), context.current_organization_id()
    providers = checkout.list_providers_of(context.current_account().profile.currency)
    return pages.render_page(
        "dashboard/billing/payment_methods.html",
        form=form or Form({"provider": providers[0] if providers else ""}),
        methods=payment_methods.list_methods(session, organization_id),
        is_auto_pay_on=payment_methods.is_auto_pay_on(session, organization_id),
        providers=[(name, PROVIDER_LABELS[name]) for name in providers],
        provider_names=PROVIDER_LABELS,
        zone=context.current_zone(),
    )


@bp.post("/billing/payment-methods")
@require_permission("billing:write")
@form_view(ProviderIn(), form=index)
def add(body: dict[str, Any]) -> Any:
    """Begin to save a method, on a page of its provider."""
    access.require_verified_email(g.principal)
    method = payment_methods.begin_setup(g.principal, body["provider"])
    return invoices.redirect_to_provider(str(method.setup_url), url_for(LIST))


@bp.post('/billing/payment-methods/<id("pmd"):method_id>/default')
@require_permission("billing:write")
@form_view(EmptyForm(), form=lambda method_id, form: index(form))  # noqa: ARG005 - the page of all of them is shown again
def make_default(method_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Make a method the one that auto-pay charges."""
    payment_methods.make_default(
        engine.session(), context.current_organization_id(), method_id, audit.actor_for(g.principal)
    )
    return pages.redirect_to(LIST, _notice="Default payment method changed.")


@bp.post('/billing/payment-methods/<id("pmd"):method_id>/remove')
@require_permission("billing:write")
@form_view(EmptyForm(), form=lambda method_id, form: index(form))  # noqa: ARG005 - the same
def remove(method_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Remove a method."""
    payment_methods.remove(engine.session(), context.current_organization_id(), method_id, audit.actor_for(g.principal))
    return pages.redirect_to(LIST, _notice="Payment method removed.")


@bp.post("/billing/auto-pay")
@require_permission("billing:write")
@form_view(AutoPay(), form=index)
def set_auto_pay(body: dict[str, Any]) -> Any:
    """Switch auto-pay."""
    is_on, actor = body["enabled"], audit.actor_for(g.principal)
    payment_methods.set_auto_pay(engine.session(), context.current_organization_id(), actor, is_on=is_on)
    return pages.redirect_to(LIST, _notice=f"Auto-pay turned {'on' if is_on else 'off'}.")
