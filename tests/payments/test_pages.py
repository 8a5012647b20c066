"""The checkout page of the mock provider and the return page: the outcome of every button."""

import re
from datetime import timedelta

import pytest

from saas_api.core import clock, ids
from saas_api.payments import jobs
from tests.support.payments import Customer, inbox_events, make_events_due
from tests.support.stripe_server import StripeServer


def back(customer: Customer) -> str:
    """Heading of the return page, which links to the invoice."""
    page = customer.client.get(f"/payments/return/{ids.format_id('pay', customer.payment().id)}")
    assert page.status_code == 200
    assert f'href="/dashboard/billing/invoices/{ids.format_id("inv", customer.invoice_id)}"' in page.text
    return re.search(r"<h1>(.*)</h1>", page.text)[1]  # type: ignore[index]  # there is one


def test_checkout_shows_the_amount_and_the_invoice(customer: Customer) -> None:
    page = customer.client.get(f"/payments/mock/{customer.begin()}")
    assert "99.00 USD" in page.text
    assert f"Invoice {customer.invoice().number}, Acme" in page.text
    assert "No real money moves" in page.text
    assert re.findall(r'value="(\w+)"', page.text) == ["pay", "decline", "cancel", "pay_late", "pay_wrong"]


def test_pages_allow_own_scripts_only_and_fit_a_phone(customer: Customer) -> None:
    for path in (
        f"/payments/mock/{customer.begin()}",
        f"/payments/return/{ids.format_id('pay', customer.payment().id)}",
    ):
        page = customer.client.get(path)
        assert all(address.startswith("/static/") for address in re.findall(r'<script src="([^"]*)"', page.text))
        assert page.text.count("<script") == page.text.count('<script src="/static/')
        policy = page.headers["Content-Security-Policy"]
        assert {"default-src 'none'", "script-src 'self'", "form-action 'self'"} <= set(policy.split("; "))
        assert "unsafe-inline" not in policy
        assert 'name="viewport" content="width=device-width, initial-scale=1"' in page.text
        assert 'name="color-scheme" content="light dark"' in page.text
        assert page.headers["Cache-Control"] == "no-store"


def test_pay_sends_a_signed_event_and_redirects_to_the_return_page(customer: Customer) -> None:
    answer = customer.choose(customer.begin(), "pay")
    assert answer.status_code == 303
    assert answer.location == f"/payments/return/{ids.format_id('pay', customer.payment().id)}"
    assert [(event.provider, event.status) for event in inbox_events()] == [("mock", "queued")]
    jobs.process_inbox()
    assert customer.invoice().state == "paid"
    assert back(customer) == "Payment received"


def test_return_page_settles_the_payment_before_its_event_is_processed(customer: Customer) -> None:
    customer.choose(customer.begin(), "pay")
    assert back(customer) == "Payment received"
    assert customer.invoice().state == "paid"
    jobs.process_inbox()
    assert (inbox_events()[0].status, customer.invoice().paid_minor, customer.wallet()) == ("processed", 9900, 0)


@pytest.mark.parametrize(
    ("action", "state", "code", "title"),
    [
        ("decline", "failed", "card_declined", "Payment declined"),
        ("cancel", "canceled", "canceled_by_customer", "Payment canceled"),
        ("pay_wrong", "quarantined", "more_than_asked", "Payment is being looked at"),
    ],
)
def test_unsuccessful_checkout_leaves_the_invoice_open(
    customer: Customer, action: str, state: str, code: str, title: str
) -> None:
    customer.choose(customer.begin(), action)
    jobs.process_inbox()
    assert (customer.payment().state, customer.payment().failure_code) == (state, code)
    assert back(customer) == title
    assert customer.invoice().state == "open"
    assert customer.initiate().status_code == 200


def test_delayed_payment_is_pending_first_and_paid_later(customer: Customer) -> None:
    customer.choose(customer.begin(), "pay_late")
    jobs.process_inbox()
    assert back(customer) == "Payment is on its way"
    clock.freeze_time(clock.now() + timedelta(seconds=31))
    make_events_due()
    jobs.process_inbox()
    assert back(customer) == "Payment received"


def test_checkout_can_be_submitted_once(customer: Customer) -> None:
    reference = customer.begin()
    for action in ("pay", "pay", "decline", "cancel"):
        assert customer.choose(reference, action).status_code == 303
    jobs.process_inbox()
    assert len(inbox_events()) == 1
    assert customer.payment().state == "succeeded"
    assert "This checkout is paid." in customer.client.get(f"/payments/mock/{reference}").text


def test_unknown_action_and_unknown_checkout_are_rejected(customer: Customer) -> None:
    reference = customer.begin()
    assert customer.choose(reference, "steal").status_code == 400
    assert customer.choose("0" * 48, "pay").status_code == 404
    assert customer.client.get("/payments/mock/%00").status_code == 404
    assert customer.client.get(f"/payments/return/{ids.format_id('pay', ids.new_id())}").status_code == 404
    assert customer.payment().state == "pending"


def test_checkout_reference_cannot_be_derived_from_the_payment_id(customer: Customer) -> None:
    reference = customer.begin()
    assert re.fullmatch(r"[0-9a-f]{48}", reference)
    assert customer.payment().id.hex not in reference


def test_return_page_asks_to_wait_while_the_provider_is_unavailable(customer: Customer, stripe: StripeServer) -> None:
    customer.begin("stripe")
    stripe.failing_with = 500
    assert back(customer) == "Payment is on its way"
