"""Webhook events of payments: their data is the payment as the API lists it."""

from typing import Any

import pytest
from sqlalchemy import text

from saas_api.core.db import tenancy
from saas_api.payments import jobs
from tests.support.payments import Customer, stripe_event
from tests.support.stripe_server import StripeServer


@pytest.fixture(autouse=True)
def _endpoint(customer: Customer) -> None:
    with tenancy.system_session("payments.read") as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://acme.example/hook')"),
            {"id": customer.id},
        )


def event_data(customer: Customer, event_type: str) -> dict[str, Any]:
    (row,) = customer.rows(f"SELECT payload::json -> 'data' AS data FROM events WHERE type = '{event_type}'")
    return dict(row.data)


def listed_payment(customer: Customer) -> dict[str, Any]:
    (payment,) = customer.client.get("/api/v1/billing/payments", headers=customer.person.headers).json["data"][
        "payments"
    ]
    del payment["payment_url"]
    return {"object": "payment", **payment}


def test_event_of_a_partial_payment_has_the_requested_and_the_captured_amount(
    customer: Customer, stripe: StripeServer
) -> None:
    reference = customer.begin("stripe")
    stripe.pay(reference, amount=4000)
    stripe_event(customer, reference)
    data = event_data(customer, "payment.succeeded")
    assert (data["amount"], data["captured"], data["status"]) == ("99.00", "40.00", "succeeded")
    assert data == listed_payment(customer)


def test_event_of_a_declined_payment_has_its_failure_code(customer: Customer) -> None:
    customer.choose(customer.begin(), "decline")
    jobs.process_inbox()
    data = event_data(customer, "payment.failed")
    assert (data["failure_code"], data["captured"]) == ("card_declined", "0.00")
    assert "error" not in data
    assert data == listed_payment(customer)
