"""Starting a payment: access, validation, and providers that do not answer."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import invoice_lifecycle, invoices
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs
from tests.support.accounts import join, sign_in
from tests.support.payments import PAY, Customer, create_customer
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]


def test_payment_is_started_for_the_amount_due(customer: Customer) -> None:
    answer = customer.initiate()
    data = answer.json["data"]
    assert answer.status_code == 200
    assert (data["amount"], data["currency"], data["provider"], data["status"]) == ("99.00", "USD", "mock", "pending")
    assert data["payment_url"].startswith("http://localhost:8080/payments/mock/")
    assert data["payment_id"] == ids.format_id("pay", customer.payment().id)


def test_invoice_can_be_named_by_its_billing_period(customer: Customer) -> None:
    period = ids.format_id("bpd", customer.invoice().billing_period_id)
    answer = customer.client.post(PAY, json={"billing_cycle_id": period}, headers=customer.person.headers)
    assert answer.status_code == 200
    assert customer.payment().invoice_id == customer.invoice_id


def test_first_configured_provider_is_the_default(customer: Customer, paystack: PaystackServer) -> None:
    assert customer.initiate(None).json["data"]["provider"] == "paystack"


def test_billing_cycle_id_accepts_an_invoice_id(customer: Customer) -> None:
    body = {"billing_cycle_id": ids.format_id("inv", customer.invoice_id)}
    answer = customer.client.post(PAY, json=body, headers=customer.person.headers)
    assert answer.status_code == 200, answer.json
    body = {"billing_cycle_id": "inv_nonsense"}
    assert customer.client.post(PAY, json=body, headers=customer.person.headers).status_code == 422


@pytest.mark.parametrize("changes", [{"invoice_id": None}, {"billing_cycle_id": ids.format_id("bpd", ids.new_id())}])
def test_exactly_one_of_invoice_and_period_is_required(customer: Customer, changes: dict[str, Any]) -> None:
    body = {
        name: value for name, value in {"invoice_id": ids.format_id("inv", ids.new_id()), **changes}.items() if value
    }
    answer = customer.client.post(PAY, json=body, headers=customer.person.headers)
    assert code(answer) == (422, "VALIDATION_ERROR")


def test_unknown_provider_is_rejected(customer: Customer) -> None:
    assert code(customer.initiate("stripe")) == (422, "INVALID_PROVIDER")
    assert code(customer.initiate("paypal")) == (422, "INVALID_PROVIDER")


def test_mock_provider_is_disabled_in_production(
    app: Flask, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = customer.begin()
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    assert customer.client.get(f"/payments/mock/{reference}").status_code == 404
    monkeypatch.setitem(app.config, "PAYMENTS_ALLOW_MOCK", True)
    assert customer.client.get(f"/payments/mock/{reference}").status_code == 200


def test_invoice_of_another_organization_is_not_found(customer: Customer, client: FlaskClient) -> None:
    other = create_customer(client, "Others")
    answer = other.initiate(invoice_id=ids.format_id("inv", customer.invoice_id))
    assert code(answer) == (404, "NOT_FOUND")
    assert customer.rows("SELECT * FROM payments") == []


def test_only_owners_and_billing_members_start_payments(app: Flask, customer: Customer) -> None:
    join(app, customer.person.organization_id, "bob@acme.example", "admin")
    bob = sign_in(customer.client, "bob@acme.example")
    answer = customer.client.post(
        PAY, json={"invoice_id": ids.format_id("inv", customer.invoice_id)}, headers=bob.headers
    )
    assert code(answer) == (403, "PERMISSION_DENIED")


def test_second_payment_is_rejected_with_the_url_of_the_first(customer: Customer) -> None:
    first = customer.initiate().json["data"]
    second = customer.initiate()
    assert code(second) == (409, "PAYMENT_IN_FLIGHT")
    assert second.json["error"]["details"]["payment_url"] == first["payment_url"]


def test_eight_concurrent_requests_start_one_payment(app: Flask, customer: Customer) -> None:
    answers: list[int] = []

    def pay() -> None:
        body = {"invoice_id": ids.format_id("inv", customer.invoice_id)}
        answers.append(app.test_client().post(PAY, json=body, headers=customer.person.headers).status_code)

    threads = [threading.Thread(target=pay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) <= {200, 409}
    assert 200 in answers
    assert len(customer.rows("SELECT * FROM payments")) == 1


def test_paid_invoice_cannot_be_paid_again(customer: Customer) -> None:
    reference = customer.begin()
    customer.choose(reference, "pay")
    jobs.process_inbox()
    assert code(customer.initiate()) == (409, "ALREADY_PAID")


def test_void_invoice_cannot_be_paid(customer: Customer) -> None:
    void(customer)
    assert code(customer.initiate()) == (409, "INVOICE_NOT_PAYABLE")


def void(customer: Customer) -> None:
    with tenancy.system_session("admin.act") as session:
        invoice_lifecycle.void_invoice(
            session, customer.id, customer.invoice_id, OperatorContext(SYSTEM_ACTOR, "a mistake")
        )


def test_amount_below_the_minimum_of_stripe_is_rejected(customer: Customer, stripe: StripeServer) -> None:
    with tenancy.system_session("admin.act") as session:
        invoices.apply_payment(session, customer.id, customer.invoice_id, 9851, "test")
    assert code(customer.initiate("stripe")) == (422, "AMOUNT_TOO_SMALL")
    assert customer.initiate("mock").json["data"]["amount"] == "0.49"


@pytest.mark.parametrize("status", [500, 502, 429])
@pytest.mark.parametrize("name", ["stripe", "paystack"])
def test_unavailable_provider_is_a_503_and_the_payment_continues_later(
    customer: Customer, stripe: StripeServer, paystack: PaystackServer, name: str, status: int
) -> None:
    server = {"stripe": stripe, "paystack": paystack}[name]
    server.failing_with = status
    answer = customer.initiate(name)
    assert code(answer) == (503, "PROVIDER_UNAVAILABLE")
    assert "Retry-After" in answer.headers
    assert (customer.payment().state, customer.payment().checkout_url) == ("created", None)
    server.failing_with = None
    assert customer.initiate(name).status_code == 200
    assert len(customer.rows("SELECT * FROM payments")) == 1


def test_slow_provider_is_a_503(customer: Customer, stripe: StripeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from saas_api.providers import stripe as stripe_provider

    monkeypatch.setattr(stripe_provider, "TIMEOUT_SECONDS", (0.2, 0.2))
    stripe_provider._client.cache_clear()
    stripe.seconds = 1
    assert code(customer.initiate("stripe")) == (503, "PROVIDER_UNAVAILABLE")
    assert customer.payment().state == "created"
    stripe_provider._client.cache_clear()


def test_lost_answer_of_stripe_is_recovered_with_the_same_key(customer: Customer, stripe: StripeServer) -> None:
    stripe.is_losing_answers = True
    assert code(customer.initiate("stripe")) == (503, "PROVIDER_UNAVAILABLE")
    stripe.is_losing_answers = False
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert len(stripe.sessions) == 1
    assert customer.payment().state == "pending"
    assert customer.payment().provider_reference in stripe.sessions


def test_lost_answer_of_paystack_fails_the_payment(customer: Customer, paystack: PaystackServer) -> None:
    paystack.is_losing_answers = True
    assert code(customer.initiate("paystack")) == (503, "PROVIDER_UNAVAILABLE")
    paystack.is_losing_answers = False
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert (customer.payment().state, customer.payment().failure_code) == ("failed", "duplicate_transaction_reference")
    assert customer.initiate("paystack").status_code == 200


def test_stripe_receives_one_request_with_the_payment_id_and_cents(customer: Customer, stripe: StripeServer) -> None:
    customer.begin("stripe")
    [(method, path, headers, _)] = stripe.calls
    assert (method, path) == ("POST", "/v1/checkout/sessions")
    assert headers["Idempotency-Key"] == customer.payment().id.hex
    [session] = stripe.sessions.values()
    assert (session["amount_total"], session["currency"]) == (9900, "usd")


def test_redirect_of_a_provider_is_not_followed(
    customer: Customer, paystack: PaystackServer, stripe: StripeServer
) -> None:
    paystack.failing_with = stripe.failing_with = 302
    assert code(customer.initiate("paystack")) == (503, "PROVIDER_UNAVAILABLE")
    assert len(paystack.calls) == 1


def test_payments_are_listed_for_their_own_organization_only(customer: Customer, client: FlaskClient) -> None:
    customer.begin()
    other = create_customer(client, "Others")
    path = "/api/v1/billing/payments"
    [mine] = client.get(path, headers=customer.person.headers).json["data"]["payments"]
    assert (mine["amount"], mine["status"], mine["captured"]) == ("99.00", "pending", "0.00")
    assert client.get(path, headers=other.person.headers).json["data"]["payments"] == []


def test_unverified_user_pays_only_if_verification_is_not_required(
    app: Flask, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    assert code(customer.initiate()) == (403, "EMAIL_NOT_VERIFIED")
