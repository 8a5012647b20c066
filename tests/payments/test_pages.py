"""The checkout page of the mock provider and the return page: the outcome of every button."""

import re
from datetime import timedelta

import pytest

from saas_api.core import clock, ids
from saas_api.payments import jobs
from tests.support.payments import PayingOrganization, inbox_events, make_events_due
from tests.support.stripe_server import StripeServer


def back(acme: PayingOrganization) -> str:
    """Heading of the return page, which links to the invoice."""
    page = acme.client.get(f"/payments/return/{ids.format_id('pay', acme.payment().id)}")
    assert page.status_code == 200
    assert f'href="/dashboard/billing/invoices/{ids.format_id("inv", acme.invoice_id)}"' in page.text
    return re.search(r"<h1>(.*)</h1>", page.text)[1]  # type: ignore[index]  # there is one


def test_checkout_shows_the_amount_and_the_invoice(acme: PayingOrganization) -> None:
    page = acme.client.get(f"/payments/mock/{acme.begin()}")
    assert "$99.00" in page.text
    assert f"Invoice {acme.invoice().number}, Acme" in page.text
    assert "This is a test checkout" in page.text
    assert re.findall(r'value="(\w+)"', page.text) == ["pay", "decline", "cancel", "pay_late", "pay_wrong"]


def test_pages_allow_own_scripts_only_and_fit_a_phone(acme: PayingOrganization) -> None:
    for path in (
        f"/payments/mock/{acme.begin()}",
        f"/payments/return/{ids.format_id('pay', acme.payment().id)}",
    ):
        page = acme.client.get(path)
        assert all(address.startswith("/static/") for address in re.findall(r'<script src="([^"]*)"', page.text))
        assert page.text.count("<script") == page.text.count('<script src="/static/')
        policy = page.headers["Content-Security-Policy"]
        assert {"default-src 'none'", "script-src 'self'", "form-action 'self'"} <= set(policy.split("; "))
        assert "unsafe-inline" not in policy
        assert 'name="viewport" content="width=device-width, initial-scale=1"' in page.text
        assert 'name="color-scheme" content="light dark"' in page.text
        assert page.headers["Cache-Control"] == "no-store"


def test_pay_sends_a_signed_event_and_redirects_to_the_return_page(acme: PayingOrganization) -> None:
    response = acme.choose(acme.begin(), "pay")
    assert response.status_code == 303
    assert response.location == f"/payments/return/{ids.format_id('pay', acme.payment().id)}"
    assert [(event.provider, event.status) for event in inbox_events()] == [("mock", "queued")]
    jobs.process_inbox()
    assert acme.invoice().state == "paid"
    assert back(acme) == "Payment received"


def test_return_page_settles_the_payment_before_its_event_is_processed(acme: PayingOrganization) -> None:
    acme.choose(acme.begin(), "pay")
    assert back(acme) == "Payment received"
    assert acme.invoice().state == "paid"
    jobs.process_inbox()
    assert (inbox_events()[0].status, acme.invoice().paid_minor, acme.wallet()) == ("processed", 9900, 0)


@pytest.mark.parametrize(
    ("action", "state", "code", "title"),
    [
        ("decline", "failed", "card_declined", "Payment declined"),
        ("cancel", "canceled", "canceled_by_customer", "Payment canceled"),
        ("pay_wrong", "quarantined", "more_than_asked", "Payment under review"),
    ],
)
def test_unsuccessful_checkout_leaves_the_invoice_open(
    acme: PayingOrganization, action: str, state: str, code: str, title: str
) -> None:
    acme.choose(acme.begin(), action)
    jobs.process_inbox()
    assert (acme.payment().state, acme.payment().failure_code) == (state, code)
    assert back(acme) == title
    assert acme.invoice().state == "open"
    assert acme.initiate().status_code == 200


def test_delayed_payment_is_pending_first_and_paid_later(acme: PayingOrganization) -> None:
    acme.choose(acme.begin(), "pay_late")
    jobs.process_inbox()
    assert back(acme) == "Payment processing"
    clock.freeze_time(clock.now() + timedelta(seconds=31))
    make_events_due()
    jobs.process_inbox()
    assert back(acme) == "Payment received"


def test_checkout_can_be_submitted_once(acme: PayingOrganization) -> None:
    reference = acme.begin()
    for action in ("pay", "pay", "decline", "cancel"):
        assert acme.choose(reference, action).status_code == 303
    jobs.process_inbox()
    assert len(inbox_events()) == 1
    assert acme.payment().state == "succeeded"
    assert "This payment was received." in acme.client.get(f"/payments/mock/{reference}").text


def test_unknown_action_and_unknown_checkout_are_rejected(acme: PayingOrganization) -> None:
    reference = acme.begin()
    assert acme.choose(reference, "steal").status_code == 400
    assert acme.choose("0" * 48, "pay").status_code == 404
    assert acme.client.get("/payments/mock/%00").status_code == 404
    assert acme.client.get(f"/payments/return/{ids.format_id('pay', ids.new_id())}").status_code == 404
    assert acme.payment().state == "pending"


def test_checkout_reference_cannot_be_derived_from_the_payment_id(acme: PayingOrganization) -> None:
    reference = acme.begin()
    assert re.fullmatch(r"[0-9a-f]{48}", reference)
    assert acme.payment().id.hex not in reference


def test_return_page_asks_to_wait_while_the_provider_is_unavailable(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    acme.begin("stripe")
    stripe.failing_with = 500
    assert back(acme) == "Payment processing"
    address = f"/payments/return/{ids.format_id('pay', acme.payment().id)}"
    fragment = acme.client.get(address, headers={"HX-Request": "true"}).text
    assert fragment.strip().startswith("<div")
    assert f'data-poll hx-get="{address}"' in fragment


def test_return_page_asks_the_provider_once_in_ten_seconds(acme: PayingOrganization, stripe: StripeServer) -> None:
    """Small: every anonymous GET of the page was a call to the provider."""
    acme.begin("stripe")
    before = len(stripe.calls)
    for _ in range(5):
        assert back(acme) == "Payment processing"
    assert len(stripe.calls) == before + 1
