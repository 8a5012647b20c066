"""Saved payment methods: set up at a provider, the default one, and removal; no data of a card but what people know."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.payments import jobs, payment_methods
from tests.support import paystack_server, stripe_server
from tests.support.billing_pages import API, browse, get_api, page_text
from tests.support.payments import (
    MOCK,
    PAYSTACK,
    STRIPE,
    PayingOrganization,
    create_paying_organization,
    inbox_events,
)
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer

PAGE = "/dashboard/billing/payment-methods"
METHODS = f"{API}/payment-methods"


def add(acme: PayingOrganization, provider: str = "mock") -> Any:
    """Begin to save a method; returns its row."""
    response = acme.client.post(METHODS, json={"provider": provider}, headers=acme.owner.headers)
    assert response.status_code == 201, response.json
    method_id = ids.parse_id("pmd", response.json["data"]["id"])
    return next(row for row in acme.rows("SELECT * FROM payment_methods") if row.id == method_id)


def save(acme: PayingOrganization, action: str = "save") -> str:
    """Save a method at the mock provider; returns its public id."""
    method = add(acme)
    acme.client.post(f"/payments/mock/setups/{method.setup_reference}", data={"action": action})
    jobs.process_inbox()
    return ids.format_id("pmd", method.id)


def states(acme: PayingOrganization) -> list[tuple[str, bool]]:
    return [(row.state, row.is_default) for row in acme.rows("SELECT * FROM payment_methods ORDER BY id")]


def test_member_saves_a_card_by_page_and_auto_pay_turns_on(app: Flask, acme: PayingOrganization) -> None:
    owner = browse(app, acme.owner)
    assert "No payment methods yet." in page_text(owner.open(PAGE))
    begun = owner.submit(PAGE, PAGE)
    assert begun.location.startswith("/payments/mock/setups/")
    assert "Payment method of Acme" in owner.open(begun.location).text
    back = owner.client.post(begun.location, data={"action": "save"})
    assert owner.open(back.location).location == PAGE
    text = page_text(owner.open(PAGE))
    assert "Visa ending in 4242" in text
    assert "New invoices are charged to Visa ending in 4242" in text
    assert owner.submit(PAGE, "/dashboard/billing/auto-pay").status_code == 303
    assert "You pay each invoice yourself." in page_text(owner.open(PAGE))
    assert get_api(acme, "/payment-methods")["auto_pay"] is False
    jobs.process_inbox()
    assert [event.status for event in inbox_events()] == ["processed"]
    assert states(acme) == [("active", True)]


def test_api_shows_what_people_know_a_card_by_and_no_reference(acme: PayingOrganization) -> None:
    method_id = save(acme)
    data = get_api(acme, "/payment-methods")
    [method] = data["payment_methods"]
    assert data["auto_pay"] is True
    assert (method["id"], method["brand"], method["last_four"], method["expiry_month"]) == (
        method_id,
        "visa",
        "4242",
        12,
    )
    assert not {"reference", "customer_reference", "setup_reference"} & set(method)


def test_default_is_one_and_moves_and_a_removed_one_is_forgotten(acme: PayingOrganization) -> None:
    first, second = save(acme), save(acme)
    assert states(acme) == [("active", True), ("active", False)]
    headers = acme.owner.headers
    assert acme.client.post(f"{METHODS}/{second}/default", headers=headers).json["data"]["is_default"] is True
    assert states(acme) == [("active", False), ("active", True)]
    assert acme.client.delete(f"{METHODS}/{second}", headers=headers).status_code == 200
    assert states(acme) == [("active", False), ("removed", False)]
    for response in (
        acme.client.delete(f"{METHODS}/{second}", headers=headers),
        acme.client.post(f"{METHODS}/{second}/default", headers=headers),
    ):
        assert response.status_code == 404
    jobs.reconcile()
    removed = acme.rows("SELECT * FROM payment_methods ORDER BY id")[1]
    assert (removed.reference, removed.next_check_at, removed.last_four) == (None, None, "4242")
    assert [method["id"] for method in get_api(acme, "/payment-methods")["payment_methods"]] == [first]


def test_card_at_stripe_is_saved_with_its_customer_and_detached(acme: PayingOrganization, stripe: StripeServer) -> None:
    method = add(acme, "stripe")
    assert stripe.sessions[method.setup_reference]["customer_email"] == acme.owner.email
    stripe.save_card(method.setup_reference)
    body = stripe_server.event("checkout.session.completed", method.setup_reference)
    assert acme.post(STRIPE, body, stripe_server.sign(body)) == 200
    jobs.process_inbox()
    [saved] = acme.rows("SELECT * FROM payment_methods")
    reference = method.setup_reference
    assert (saved.reference, saved.customer_reference) == (f"pm_{reference}", f"cus_{reference}")
    assert (saved.brand, saved.last_four, saved.expiry_year) == ("visa", "4242", 2030)
    acme.client.delete(f"{METHODS}/{ids.format_id('pmd', saved.id)}", headers=acme.owner.headers)
    stripe.failing_with = 500
    jobs.reconcile()
    assert stripe.detached == set()
    stripe.failing_with = None
    payment_methods.follow_due(clock.now() + timedelta(hours=2))
    assert stripe.detached == {f"pm_{reference}"}


def test_card_at_paystack_is_saved_by_an_amount_that_is_refunded_once(
    acme: PayingOrganization, paystack: PaystackServer
) -> None:
    method = add(acme, "paystack")
    paystack.save_card(method.setup_reference)
    for kind in ("charge.success", "refund.processed"):
        body = paystack_server.event(kind, method.setup_reference)
        body = body.replace(b'"reference"', b'"transaction_reference"') if kind.startswith("refund") else body
        assert acme.post(PAYSTACK, body, paystack_server.sign(body)) == 200
    jobs.process_inbox()
    assert states(acme) == [("active", True)]
    assert [(refund["transaction"], refund["amount"]) for refund in paystack.refunds] == [(method.setup_reference, 200)]
    assert {event.status for event in inbox_events()} == {"processed"}


def test_card_that_was_saved_twice_is_forgotten_with_the_last(
    acme: PayingOrganization, paystack: PaystackServer
) -> None:
    """Paystack gives the same card the same authorization."""
    for _ in range(2):
        reference = add(acme, "paystack").setup_reference
        paystack.save_card(reference)
        paystack.transactions[reference]["authorization"]["authorization_code"] = "AUTH_same"
        payment_methods.settle_setup("paystack", reference)
    expected: list[set[str]] = [set(), {"AUTH_same"}]
    for method, deactivated in zip(get_api(acme, "/payment-methods")["payment_methods"], expected, strict=True):
        acme.client.delete(f"{METHODS}/{method['id']}", headers=acme.owner.headers)
        payment_methods.follow_due(clock.now())
        assert paystack.deactivated == deactivated


def test_setup_that_is_canceled_or_left_saves_nothing(acme: PayingOrganization) -> None:
    save(acme, "cancel")
    add(acme)
    payment_methods.follow_due(clock.now() + timedelta(minutes=6))
    assert states(acme) == [("canceled", False), ("pending", False)]
    payment_methods.follow_due(clock.now() + timedelta(days=2))
    assert states(acme) == [("canceled", False), ("canceled", False)]


def test_provider_that_does_not_answer_leaves_no_method(acme: PayingOrganization, stripe: StripeServer) -> None:
    stripe.failing_with = 500
    response = acme.client.post(METHODS, json={"provider": "stripe"}, headers=acme.owner.headers)
    assert (response.status_code, response.json["error"]["code"]) == (503, "PROVIDER_UNAVAILABLE")
    assert states(acme) == [("canceled", False)]


def test_methods_are_limited(acme: PayingOrganization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payment_methods, "MAX_METHODS", 1)
    save(acme)
    response = acme.client.post(METHODS, json={}, headers=acme.owner.headers)
    assert (response.status_code, response.json["error"]["code"]) == (409, "TOO_MANY_PAYMENT_METHODS")


def test_methods_are_of_their_organization(client: FlaskClient, acme: PayingOrganization) -> None:
    bravo = create_paying_organization(client, "Bravo")
    method_id = save(acme)
    assert get_api(bravo, "/payment-methods")["payment_methods"] == []
    assert client.delete(f"{METHODS}/{method_id}", headers=bravo.owner.headers).status_code == 404
    assert client.post(f"{METHODS}/{method_id}/default", headers=bravo.owner.headers).status_code == 404
    assert states(acme) == [("active", True)]


def test_forged_event_saves_nothing(acme: PayingOrganization) -> None:
    """Only the provider decides: an event makes us ask it."""
    method = add(acme)
    acme.send_event(method.setup_reference)
    assert states(acme) == [("pending", False)]
    assert acme.post(MOCK, b"{}", "forged") == 401
