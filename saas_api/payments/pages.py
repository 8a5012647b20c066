"""Public pages of payments: the checkout of the mock provider, and the page after a checkout."""

from http import HTTPStatus
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as WerkzeugResponse

from saas_api.core.access import public_view
from saas_api.core.errors import BadRequest, NotFound
from saas_api.core.web import pages
from saas_api.payments import payments, provider_events
from saas_api.payments.models import PaymentStatus
from saas_api.providers import mock_payments, selection
from saas_api.providers.mock_payments import CHECKOUT_ACTIONS, MockCheckoutPage

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
