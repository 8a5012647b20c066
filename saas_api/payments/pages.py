"""Public pages of payments: the pages of the mock provider, and those after a checkout or a setup."""

from http import HTTPStatus
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as WerkzeugResponse

from saas_api.core.access import public_view
from saas_api.core.errors import BadRequest, NotFound
from saas_api.core.web import pages
from saas_api.payments import payment_methods, payments, provider_events
from saas_api.payments.models import PaymentStatus
from saas_api.providers import mock_payments, selection
from saas_api.providers.mock_payments import CHECKOUT_ACTIONS, SETUP_ACTIONS, MockCheckoutPage, MockSetupPage

bp = Blueprint("payments_pages", __name__)

_HEADINGS = {
    PaymentStatus.SUCCEEDED: "Payment received",
    PaymentStatus.FAILED: "Payment declined",
    PaymentStatus.CANCELED: "Payment canceled",
    PaymentStatus.QUARANTINED: "Payment under review",
}


@bp.get("/mock/<reference>")
@public_view
def checkout_page(reference: str) -> Response:
    """Show the checkout of the provider that takes no real money."""
    return pages.render_page("payments/checkout.html", checkout=_checkout(reference))


@bp.post("/mock/<reference>")
@public_view
def submit_checkout(reference: str) -> Response | WerkzeugResponse:
    """Apply the chosen outcome, send its signed event as a provider would, and redirect to the return page."""
    checkout, action = _checkout(reference), request.form.get("action", "")
    if action not in CHECKOUT_ACTIONS:
        raise BadRequest
    event = mock_payments.submit_action(reference, action)
    if event:
        provider_events.receive_event("mock", event.body, event.signature)
    return redirect(urlsplit(checkout.return_url).path, HTTPStatus.SEE_OTHER)  # a form must not lead to another origin


@bp.get("/mock/setups/<setup_reference>")
@public_view
def setup_page(setup_reference: str) -> Response:
    """Show the page on which the provider that takes no real money saves a card."""
    return pages.render_page("payments/setup.html", setup=_setup(setup_reference))


@bp.post("/mock/setups/<setup_reference>")
@public_view
def submit_setup(setup_reference: str) -> Response | WerkzeugResponse:
    """Apply the chosen outcome, send its signed event as a provider would, and redirect to the return page."""
    setup, action = _setup(setup_reference), request.form.get("action", "")
    if action not in SETUP_ACTIONS:
        raise BadRequest
    event = mock_payments.submit_setup(setup_reference, action)
    if event:
        provider_events.receive_event("mock", event.body, event.signature)
    return redirect(urlsplit(setup.return_url).path, HTTPStatus.SEE_OTHER)


@bp.get('/setups/<id("pmd"):method_id>')
@public_view
def setup_return_page(method_id: UUID) -> WerkzeugResponse:
    """Ask the provider about a payment method, and redirect to the payment methods; tells nobody anything."""
    payment_methods.refresh_setup(method_id)
    return redirect("/dashboard/billing/payment-methods", HTTPStatus.SEE_OTHER)


@bp.get('/return/<id("pay"):payment_id>')
@public_view
def return_page(payment_id: UUID) -> Response:
    """Show the outcome of a payment. Asks the provider if it is not known yet; the page polls until it is."""
    payment = payments.refresh_payment(payment_id)
    if payment is None:
        raise NotFound
    heading = _HEADINGS.get(payment.status)
    return pages.render_page(
        "payments/return.html",
        block="outcome",
        payment=payment,
        heading=heading or "Payment processing",
        is_pending=heading is None,
    )


def _checkout(reference: str) -> MockCheckoutPage:
    checkout = mock_payments.find_checkout(reference) if "mock" in selection.enabled_payment_providers() else None
    if checkout is None:
        raise NotFound
    return checkout


def _setup(reference: str) -> MockSetupPage:
    setup = mock_payments.find_setup(reference) if "mock" in selection.enabled_payment_providers() else None
    if setup is None:
        raise NotFound
    return setup
