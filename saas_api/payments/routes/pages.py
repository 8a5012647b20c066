"""Two public pages: the mock's checkout, and where every provider sends its customers back to."""

from http import HTTPStatus
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as Answer

from saas_api.core.access import public
from saas_api.core.errors import Malformed, NotFound
from saas_api.core.render import page
from saas_api.payments import service as payments
from saas_api.providers import mock_checkout
from saas_api.providers.payments import offered

bp = Blueprint("pages", __name__)


@bp.get("/mock/<reference>")
@public
def checkout(reference: str) -> Response:
    """Show the checkout of the provider that takes no real money."""
    return page("payments/checkout.html", checkout=_checkout(reference))


@bp.post("/mock/<reference>")
@public
def act(reference: str) -> Response | Answer:
    """Do what the customer chose, send the signed event as a provider would, and send the customer back."""
    shown, action = _checkout(reference), request.form.get("action", "")
    if action not in mock_checkout.ACTIONS:
        raise Malformed
    event = mock_checkout.act(reference, action)
    if event:
        payments.receive("mock", event.body, event.signature)
    return redirect(urlsplit(shown.return_url).path, HTTPStatus.SEE_OTHER)  # a form must not lead to another origin


@bp.get('/return/<id("pay"):payment_id>')
@public
def come_back(payment_id: UUID) -> Response:
    """Show what became of a payment; its provider is asked if that is not known yet."""
    payment = payments.look(payment_id)
    if payment is None:
        raise NotFound
    return page("payments/return.html", payment=payment)


def _checkout(reference: str) -> mock_checkout.Page:
    found = mock_checkout.page(reference) if "mock" in offered() else None
    if found is None:
        raise NotFound
    return found
