"""Two public pages: the mock's checkout, and where every provider sends its customers back to."""

from http import HTTPStatus
from uuid import UUID

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.wrappers import Response as Answer

from saas_api.core.access import public
from saas_api.core.errors import Malformed, NotFound
from saas_api.core.money import minor_to_text
from saas_api.core.settings import setting
from saas_api.payments import service as payments
from saas_api.providers import mock_checkout
from saas_api.providers.payments import offered

bp = Blueprint("pages", __name__)


@bp.get("/mock/<reference>")
@public
def checkout(reference: str) -> Response:
    """Show the checkout of the provider that takes no real money."""
    return _page("payments/checkout.html", page=_checkout(reference))


@bp.post("/mock/<reference>")
@public
def act(reference: str) -> Response | Answer:
    """Do what the customer chose, send the signed event as a provider would, and send the customer back."""
    page, action = _checkout(reference), request.form.get("action", "")
    if action not in mock_checkout.ACTIONS:
        raise Malformed
    event = mock_checkout.act(reference, action)
    if event:
        payments.receive("mock", event.body, event.signature)
    return redirect(page.return_url, HTTPStatus.SEE_OTHER)


@bp.get('/return/<id("pay"):payment_id>')
@public
def come_back(payment_id: UUID) -> Response:
    """Show what became of a payment; its provider is asked if that is not known yet."""
    payment = payments.look(payment_id)
    if payment is None:
        raise NotFound
    return _page("payments/return.html", payment=payment)


def _checkout(reference: str) -> mock_checkout.Page:
    page = mock_checkout.page(reference) if "mock" in offered() else None
    if page is None:
        raise NotFound
    return page


def _page(template: str, **shown: object) -> Response:
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {setting('APP_URL')}"
    )
    text = render_template(template, amount=minor_to_text, **shown)
    return Response(text, headers={"Content-Security-Policy": policy})
