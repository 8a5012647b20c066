"""Webhook events of payments: their data is the payment as the API lists it."""

from typing import Any

import pytest
from sqlalchemy import text

from saas_api.core.db import tenancy
from saas_api.payments import jobs
from tests.support.payments import PayingOrganization, stripe_event
from tests.support.stripe_server import StripeServer


@pytest.fixture(autouse=True)
def _endpoint(acme: PayingOrganization) -> None:
    with tenancy.system_session("payments.read") as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://acme.example/hook')"),
            {"id": acme.id},
        )


def event_data(acme: PayingOrganization, event_type: str) -> dict[str, Any]:
    (row,) = acme.rows(f"SELECT payload::json -> 'data' AS data FROM events WHERE type = '{event_type}'")
    return dict(row.data)


def listed_payment(acme: PayingOrganization) -> dict[str, Any]:
    (payment,) = acme.client.get("/api/v1/billing/payments", headers=acme.owner.headers).json["data"]["payments"]
    del payment["payment_url"]
    return {"object": "payment", **payment}


def test_event_of_a_partial_payment_has_the_requested_and_the_captured_amount(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference, amount=4000)
    stripe_event(acme, reference)
    data = event_data(acme, "payment.succeeded")
    assert (data["amount"], data["captured"], data["status"]) == ("99.00", "40.00", "succeeded")
    assert data == listed_payment(acme)


def test_event_of_a_declined_payment_has_its_failure_code(acme: PayingOrganization) -> None:
    acme.choose(acme.begin(), "decline")
    jobs.process_inbox()
    data = event_data(acme, "payment.failed")
    assert (data["failure_code"], data["captured"]) == ("card_declined", "0.00")
    assert "error" not in data
    assert data == listed_payment(acme)
