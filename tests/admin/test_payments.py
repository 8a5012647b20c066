"""Payments and provider events at the console: quarantine, recheck, retry, resolve."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs, payments
from saas_api.payments.payments import OfflinePayment
from saas_api.providers import mock_payments
from tests.support.accounts import User
from tests.support.console import (
    IN_BOTH_LOGS,
    IN_PLATFORM_LOG,
    Console,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)
from tests.support.payments import MOCK, IsolatedClient, PayingOrganization


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@pytest.fixture
def quarantined(acme: PayingOrganization) -> PayingOrganization:
    """An organization whose payment exceeds the requested amount."""
    acme.choose(acme.begin(), "pay_wrong")
    jobs.process_inbox()
    assert acme.payment().state == "quarantined"
    return acme


def payment_page(acme: PayingOrganization) -> str:
    return f"/admin/payments/{ids.format_id('pay', acme.payment().id)}"


def unknown_payment_event(app: Flask, acme: PayingOrganization) -> str:
    """Receive an event about an unknown payment and return the path of its page."""
    event = mock_payments.new_event("checkout.completed", "mock_unknown")
    assert acme.post(MOCK, event.body, event.signature) == 200
    jobs.process_inbox()
    rows = execute_sql(
        app, "SELECT event_id FROM provider_events WHERE status = 'quarantined' AND error_code = 'unknown_reference'"
    )
    return f"/admin/payments/events/mock/{rows[0].event_id}"


def event_status(app: Flask, page: str) -> Any:
    sql = "SELECT status FROM provider_events WHERE event_id = :id"
    return execute_sql(app, sql, id=page.rpartition("/")[2])[0].status


def test_pages_require_an_operator_role(
    app: Flask, client: FlaskClient, quarantined: PayingOrganization, carol: User
) -> None:
    event = unknown_payment_event(app, quarantined)
    pages = {
        payment_page(quarantined): "support",
        f"{payment_page(quarantined)}/ask": "admin",
        f"{payment_page(quarantined)}/resolve": "admin",
        event: "support",
    }
    check_operator_access(app, client, carol, {**pages, f"{event}/take-up": "admin", f"{event}/resolve": "admin"})


def test_quarantined_payment_is_shown_with_the_difference(
    app: Flask, client: FlaskClient, quarantined: PayingOrganization
) -> None:
    olga = sign_in_operator(app, client, "support")
    for path in ("/admin/payments", payment_page(quarantined)):
        page = olga.read(path)
        assert "more than asked" in page.lower()
        assert "$99.00" in page
    reported_minor = execute_sql(app, "SELECT data FROM audit_events WHERE action = 'payment.quarantined'")[0].data[
        "told_minor"
    ]
    difference = f"${(reported_minor - 9900) / 100:.2f} more"
    assert difference in olga.read("/admin/payments")


def test_recheck_books_nothing_while_the_result_is_unchanged(
    app: Flask, client: FlaskClient, quarantined: PayingOrganization
) -> None:
    page = sign_in_operator(app, client).run_action(f"{payment_page(quarantined)}/ask")
    assert "Its status is quarantined." in page
    assert audit_log(app, "payment.asked_about") == IN_BOTH_LOGS
    assert quarantined.invoice().state == "open"


def test_recheck_books_a_confirmed_payment(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    acme.choose(acme.begin(), "pay")
    assert acme.payment().state == "pending"
    assert "Its status is succeeded." in sign_in_operator(app, client).run_action(f"{payment_page(acme)}/ask")
    assert (acme.invoice().state, acme.payment().captured_minor) == ("paid", 9900)


def test_recheck_without_a_provider_reference_is_a_conflict(
    app: Flask, client: FlaskClient, quarantined: PayingOrganization
) -> None:
    path = f"{payment_page(quarantined)}/ask"
    olga = sign_in_operator(app, client)
    fields = {**olga.form(path), "reason": "ticket 4711: no keys here"}
    execute_sql(app, "UPDATE payments SET provider_reference = NULL")
    response = olga.send(path, fields)
    assert (response.status_code, "nothing to ask" in error_summary(response)) == (409, True)


def test_payment_is_resolved_once(app: Flask, client: FlaskClient, quarantined: PayingOrganization) -> None:
    olga = sign_in_operator(app, client)
    assert "Its status is canceled." in olga.run_action(f"{payment_page(quarantined)}/resolve")
    assert audit_log(app, "payment.resolved") == IN_BOTH_LOGS
    response = olga.submit_action(f"{payment_page(quarantined)}/resolve")
    assert (response.status_code, "not quarantined" in error_summary(response)) == (409, True)
    assert (quarantined.invoice().state, quarantined.payment().captured_minor) == ("open", 0)


def test_event_of_an_unknown_payment_is_retried_and_resolved(
    app: Flask, client: FlaskClient, acme: PayingOrganization
) -> None:
    event, olga = unknown_payment_event(app, acme), sign_in_operator(app, client)
    assert "unknown_reference" in olga.read("/admin/payments/events?status=quarantined")
    olga.run_action(f"{event}/take-up")
    assert event_status(app, event) == "queued"
    jobs.process_inbox()
    assert event_status(app, event) == "quarantined"
    olga.run_action(f"{event}/resolve")
    assert event_status(app, event) == "ignored"
    assert [audit_log(app, f"payment_event.{verb}") for verb in ("taken_up", "resolved")] == [
        IN_PLATFORM_LOG,
        IN_PLATFORM_LOG,
    ]
    assert olga.submit_action(f"{event}/resolve").status_code == 409


def test_body_of_a_provider_event_is_not_shown(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    event = unknown_payment_event(app, acme)
    execute_sql(app, "UPDATE provider_events SET body = 'buyer@secret.example'::bytea")
    assert "secret.example" not in sign_in_operator(app, client).read(event)


def test_payments_and_provider_events_download_as_csv(
    app: Flask, client: FlaskClient, quarantined: PayingOrganization
) -> None:
    olga = sign_in_operator(app, client)
    payments = (
        olga.open("/admin/payments?format=csv&reason=ticket+4711&status=quarantined")
        .get_data(as_text=True)
        .splitlines()
    )
    assert payments[0].lstrip("\ufeff") == (
        "payment_id,organization_id,organization,invoice_id,provider,reference,"
        "status,failure_code,amount,captured,currency,created_at"
    )
    events = olga.open("/admin/payments/events?format=csv&reason=ticket+4711").get_data(as_text=True).splitlines()
    assert (len(payments), "more_than_asked" in payments[1], len(events) >= 2) == (2, True, True)


def test_unknown_payment_or_event_is_not_found(app: Flask, client: FlaskClient) -> None:
    olga: Console = sign_in_operator(app, client)
    paths = (f"pay_{'0' * 32}", "events/mock/evt_unknown", "events/mock/evt_unknown/resolve")
    assert [olga.open(f"/admin/payments/{path}").status_code for path in paths] == [404] * 3


@pytest.fixture
def failed_refund(acme: PayingOrganization) -> str:
    """Path of the console's actions on a refund of 9.00 of a bank transfer, which no provider can send back."""
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    with tenancy.system_session("admin.act") as session:
        content = CreditNoteInput("goodwill", amount_minor=900, is_refund=True)
        operator = OperatorContext(SYSTEM_ACTOR, "a mistake")
        credit_notes.create_credit_note(session, acme.id, acme.invoice_id, content, operator)
    jobs.reconcile()
    return f"/admin/refunds/{ids.format_id('rfd', acme.rows('SELECT id FROM refunds')[0].id)}"


def test_failed_refund_is_recorded_as_paid_back(
    app: Flask, client: FlaskClient, acme: PayingOrganization, failed_refund: str
) -> None:
    """B3: the page of the payment leads to the three decisions; each is in both audit logs."""
    olga = sign_in_operator(app, client)
    page = olga.open(payment_page(acme)).text
    assert all(f"{failed_refund}/{name}" in page for name in ("paid-back", "to-wallet"))
    assert "Refund marked as paid." in olga.run_action(f"{failed_refund}/paid-back", reference="MT940 0816")
    assert audit_log(app, "refund.paid_by_hand") == IN_BOTH_LOGS
    answer = olga.submit_action(f"{failed_refund}/to-wallet")
    assert (answer.status_code, "Only a failed refund" in error_summary(answer)) == (409, True)


def test_failed_refund_is_turned_into_credit_and_paid_out(
    app: Flask, client: FlaskClient, acme: PayingOrganization, failed_refund: str
) -> None:
    """B3, B7: the money is in the wallet, then out of it, under a bank reference."""
    olga = sign_in_operator(app, client)
    assert "Refund converted to wallet credit." in olga.run_action(f"{failed_refund}/to-wallet")
    assert acme.wallet() == 900
    path = f"/admin/organizations/{ids.format_id('org', acme.id)}/payout"
    assert "out of the wallet" in olga.run_action(path, amount="9.00", reference="MT940 0816")
    assert acme.wallet() == 0
    assert audit_log(app, "wallet.paid_out") == IN_BOTH_LOGS
