"""Starting a payment: access, validation, and providers that do not respond."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes, invoice_lifecycle, settlement
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs, payments
from saas_api.payments.payments import OfflinePayment
from tests.support.accounts import join, sign_in
from tests.support.payments import PAY, PayingOrganization, create_paying_organization
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def test_payment_is_started_for_the_amount_due(acme: PayingOrganization) -> None:
    response = acme.initiate()
    data = response.json["data"]
    assert response.status_code == 200
    assert (data["amount"], data["currency"], data["provider"], data["status"]) == ("99.00", "USD", "mock", "pending")
    assert data["payment_url"].startswith("http://localhost:8080/payments/mock/")
    assert data["payment_id"] == ids.format_id("pay", acme.payment().id)


def test_invoice_can_be_named_by_its_billing_period(acme: PayingOrganization) -> None:
    period = ids.format_id("bpd", acme.invoice().billing_period_id)
    response = acme.client.post(PAY, json={"billing_cycle_id": period}, headers=acme.owner.headers)
    assert response.status_code == 200
    assert acme.payment().invoice_id == acme.invoice_id


def test_first_configured_provider_is_the_default(acme: PayingOrganization, paystack: PaystackServer) -> None:
    assert acme.initiate(None).json["data"]["provider"] == "paystack"


def test_billing_cycle_id_accepts_an_invoice_id(acme: PayingOrganization) -> None:
    body = {"billing_cycle_id": ids.format_id("inv", acme.invoice_id)}
    response = acme.client.post(PAY, json=body, headers=acme.owner.headers)
    assert response.status_code == 200, response.json
    body = {"billing_cycle_id": "inv_nonsense"}
    assert acme.client.post(PAY, json=body, headers=acme.owner.headers).status_code == 422


@pytest.mark.parametrize("changes", [{"invoice_id": None}, {"billing_cycle_id": ids.format_id("bpd", ids.new_id())}])
def test_exactly_one_of_invoice_and_period_is_required(acme: PayingOrganization, changes: dict[str, Any]) -> None:
    body = {
        name: value for name, value in {"invoice_id": ids.format_id("inv", ids.new_id()), **changes}.items() if value
    }
    response = acme.client.post(PAY, json=body, headers=acme.owner.headers)
    assert code(response) == (422, "VALIDATION_ERROR")


def test_unknown_provider_is_rejected(acme: PayingOrganization) -> None:
    assert code(acme.initiate("stripe")) == (422, "INVALID_PROVIDER")
    assert code(acme.initiate("paypal")) == (422, "INVALID_PROVIDER")


def test_mock_provider_is_disabled_in_production(
    app: Flask, acme: PayingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = acme.begin()
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    assert acme.client.get(f"/payments/mock/{reference}").status_code == 404
    monkeypatch.setitem(app.config, "PAYMENTS_ALLOW_MOCK", True)
    assert acme.client.get(f"/payments/mock/{reference}").status_code == 200


def test_invoice_of_another_organization_is_not_found(acme: PayingOrganization, client: FlaskClient) -> None:
    other = create_paying_organization(client, "Others")
    response = other.initiate(invoice_id=ids.format_id("inv", acme.invoice_id))
    assert code(response) == (404, "NOT_FOUND")
    assert acme.rows("SELECT * FROM payments") == []


def test_only_owners_and_billing_members_start_payments(app: Flask, acme: PayingOrganization) -> None:
    join(app, acme.owner.organization_id, "bob@acme.example", "admin")
    bob = sign_in(acme.client, "bob@acme.example")
    response = acme.client.post(PAY, json={"invoice_id": ids.format_id("inv", acme.invoice_id)}, headers=bob.headers)
    assert code(response) == (403, "PERMISSION_DENIED")


def test_second_payment_is_rejected_with_the_url_of_the_first(acme: PayingOrganization) -> None:
    first = acme.initiate().json["data"]
    second = acme.initiate()
    assert code(second) == (409, "PAYMENT_IN_FLIGHT")
    assert second.json["error"]["details"]["payment_url"] == first["payment_url"]


def test_eight_concurrent_requests_start_one_payment(app: Flask, acme: PayingOrganization) -> None:
    responses: list[int] = []

    def pay() -> None:
        body = {"invoice_id": ids.format_id("inv", acme.invoice_id)}
        responses.append(app.test_client().post(PAY, json=body, headers=acme.owner.headers).status_code)

    threads = [threading.Thread(target=pay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(responses) <= {200, 409}
    assert 200 in responses
    assert len(acme.rows("SELECT * FROM payments")) == 1


def test_paid_invoice_cannot_be_paid_again(acme: PayingOrganization) -> None:
    reference = acme.begin()
    acme.choose(reference, "pay")
    jobs.process_inbox()
    assert code(acme.initiate()) == (409, "ALREADY_PAID")


def test_void_invoice_cannot_be_paid(acme: PayingOrganization) -> None:
    void(acme)
    assert code(acme.initiate()) == (409, "INVOICE_NOT_PAYABLE")


def void(acme: PayingOrganization) -> None:
    with tenancy.system_session("admin.act") as session:
        invoice_lifecycle.void_invoice(session, acme.id, acme.invoice_id, OperatorContext(SYSTEM_ACTOR, "a mistake"))


def test_amount_below_the_minimum_of_stripe_is_rejected(acme: PayingOrganization, stripe: StripeServer) -> None:
    with tenancy.system_session("admin.act") as session:
        settlement.apply_payment(session, acme.id, acme.invoice_id, 9851, "test")
    assert code(acme.initiate("stripe")) == (422, "AMOUNT_TOO_SMALL")
    assert acme.initiate("mock").json["data"]["amount"] == "0.49"


@pytest.mark.parametrize("status", [500, 502, 429])
@pytest.mark.parametrize("name", ["stripe", "paystack"])
def test_unavailable_provider_is_a_503_and_the_payment_continues_later(
    acme: PayingOrganization, stripe: StripeServer, paystack: PaystackServer, name: str, status: int
) -> None:
    server = {"stripe": stripe, "paystack": paystack}[name]
    server.failing_with = status
    response = acme.initiate(name)
    assert code(response) == (503, "PROVIDER_UNAVAILABLE")
    assert "Retry-After" in response.headers
    assert (acme.payment().state, acme.payment().checkout_url) == ("created", None)
    server.failing_with = None
    assert acme.initiate(name).status_code == 200
    assert len(acme.rows("SELECT * FROM payments")) == 1


def test_slow_provider_is_a_503(
    acme: PayingOrganization, stripe: StripeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saas_api.providers import stripe as stripe_provider

    monkeypatch.setattr(stripe_provider, "TIMEOUT_SECONDS", (0.2, 0.2))
    stripe_provider._client.cache_clear()
    stripe.seconds = 1
    assert code(acme.initiate("stripe")) == (503, "PROVIDER_UNAVAILABLE")
    assert acme.payment().state == "created"
    stripe_provider._client.cache_clear()


def test_lost_response_of_stripe_is_recovered_with_the_same_key(acme: PayingOrganization, stripe: StripeServer) -> None:
    stripe.is_losing_responses = True
    assert code(acme.initiate("stripe")) == (503, "PROVIDER_UNAVAILABLE")
    stripe.is_losing_responses = False
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert len(stripe.sessions) == 1
    assert acme.payment().state == "pending"
    assert acme.payment().provider_reference in stripe.sessions


def test_lost_response_of_paystack_fails_the_payment(acme: PayingOrganization, paystack: PaystackServer) -> None:
    paystack.is_losing_responses = True
    assert code(acme.initiate("paystack")) == (503, "PROVIDER_UNAVAILABLE")
    paystack.is_losing_responses = False
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert (acme.payment().state, acme.payment().failure_code) == ("failed", "duplicate_transaction_reference")
    assert acme.initiate("paystack").status_code == 200


def test_stripe_receives_one_request_with_the_payment_id_and_cents(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    acme.begin("stripe")
    [(method, path, headers, _)] = stripe.calls
    assert (method, path) == ("POST", "/v1/checkout/sessions")
    assert headers["Idempotency-Key"] == acme.payment().id.hex
    [session] = stripe.sessions.values()
    assert (session["amount_total"], session["currency"]) == (9900, "usd")


def test_redirect_of_a_provider_is_not_followed(
    acme: PayingOrganization, paystack: PaystackServer, stripe: StripeServer
) -> None:
    paystack.failing_with = stripe.failing_with = 302
    assert code(acme.initiate("paystack")) == (503, "PROVIDER_UNAVAILABLE")
    assert len(paystack.calls) == 1


def test_payments_are_listed_for_their_own_organization_only(acme: PayingOrganization, client: FlaskClient) -> None:
    acme.begin()
    other = create_paying_organization(client, "Others")
    path = "/api/v1/billing/payments"
    [mine] = client.get(path, headers=acme.owner.headers).json["data"]["payments"]
    assert (mine["amount"], mine["status"], mine["captured"]) == ("99.00", "pending", "0.00")
    assert client.get(path, headers=other.owner.headers).json["data"]["payments"] == []


def test_unverified_user_pays_only_if_verification_is_not_required(
    app: Flask, acme: PayingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    assert code(acme.initiate()) == (403, "EMAIL_NOT_VERIFIED")


def lower(acme: PayingOrganization, minor: int | None) -> None:
    """Write a credit note; all that is left without an amount."""
    with tenancy.system_session("admin.act") as session:
        content = CreditNoteInput("goodwill", amount_minor=minor)
        operator = OperatorContext(SYSTEM_ACTOR, "a mistake")
        credit_notes.create_credit_note(session, acme.id, acme.invoice_id, content, operator)


@pytest.mark.parametrize("change", ["part", "all", "void", "transfer"])
def test_page_with_an_outdated_amount_is_expired(acme: PayingOrganization, stripe: StripeServer, change: str) -> None:
    """B7: a credit note, a void or an offline payment closes the open page here at once, and at the provider."""
    reference = acme.begin("stripe")
    if change == "void":
        void(acme)
    elif change == "transfer":
        money = OfflinePayment(1000, "USD", "MT940 0815")
        payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    else:
        lower(acme, 1000 if change == "part" else None)
    [page] = acme.rows("SELECT * FROM payments WHERE provider = 'stripe'")
    assert (page.state, page.failure_code) == ("canceled", "amount_changed")
    jobs.reconcile()
    assert stripe.sessions[reference]["status"] == "expired"
    [page] = acme.rows("SELECT * FROM payments WHERE provider = 'stripe'")
    assert (page.state, page.next_check_at) == ("canceled", None)
    if change in {"part", "transfer"}:
        assert acme.initiate("stripe").json["data"]["amount"] == "89.00"


def test_page_that_was_paid_before_it_could_be_expired_fills_the_wallet(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    """B7: the provider's word counts, however late the page is closed."""
    reference = acme.begin("stripe")
    lower(acme, None)
    stripe.pay(reference)
    for _ in range(2):
        jobs.reconcile()
    assert (acme.payment().state, acme.wallet()) == ("succeeded", 9900)


def test_page_is_expired_after_the_provider_was_unavailable(acme: PayingOrganization, stripe: StripeServer) -> None:
    """B7: a provider that is away is asked again."""
    reference = acme.begin("stripe")
    lower(acme, 1000)
    stripe.failing_with = 500
    jobs.reconcile()
    stripe.failing_with = None
    clock.freeze_time(clock.now() + timedelta(hours=2))
    jobs.reconcile()
    assert stripe.sessions[reference]["status"] == "expired"


def test_page_of_the_mock_provider_is_closed(acme: PayingOrganization) -> None:
    """B7: the mock's page takes no money any more."""
    reference = acme.begin()
    lower(acme, 1000)
    jobs.reconcile()
    acme.choose(reference, "pay")
    jobs.process_inbox()
    assert (acme.invoice().due_minor, acme.wallet()) == (8900, 0)


def test_amount_that_changes_while_a_payment_is_initiated_is_not_asked_for(
    app: Flask, acme: PayingOrganization
) -> None:
    """B7: whichever comes first, no open page asks for what is no longer due."""

    def act(number: int) -> None:
        if number:
            acme.initiate("mock")
        else:
            with app.app_context():
                lower(acme, 1000)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(act, range(2)))
    pages = acme.rows("SELECT amount_minor FROM payments WHERE state IN ('created', 'pending')")
    assert [page.amount_minor for page in pages] in ([], [8900])
