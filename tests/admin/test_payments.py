"""Payments at the console: what is quarantined and by how much, asked about again, resolved; and providers' events."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.payments import jobs
from saas_api.providers import mock_payments
from tests.support.accounts import Person
from tests.support.console import BOTH, PLATFORM, Console, check_offices, console, log, problem, run
from tests.support.payments import MOCK, Customer, Visitor


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return Visitor(app, app.response_class)


@pytest.fixture
def apart(customer: Customer) -> Customer:
    """A customer whose payment is more than what was asked for."""
    customer.choose(customer.begin(), "pay_wrong")
    jobs.process_inbox()
    assert customer.payment().state == "quarantined"
    return customer


def one(customer: Customer) -> str:
    return f"/admin/payments/{ids.format_id('pay', customer.payment().id)}"


def strange(app: Flask, customer: Customer) -> str:
    """An event about a payment that nobody began; its page."""
    event = mock_payments.new_event("checkout.completed", "mock_nobodys")
    assert customer.post(MOCK, event.body, event.signature) == 200
    jobs.process_inbox()
    rows = run(app, "SELECT event_id FROM provider_events WHERE state = 'quarantined' AND error = 'unknown_reference'")
    return f"/admin/payments/events/mock/{rows[0].event_id}"


def state_of(app: Flask, page: str) -> Any:
    sql = "SELECT state FROM provider_events WHERE event_id = :id"
    return run(app, sql, id=page.rpartition("/")[2])[0].state


def test_only_operators_find_the_pages(app: Flask, client: FlaskClient, apart: Customer, carol: Person) -> None:
    event = strange(app, apart)
    pages = {one(apart): "support", f"{one(apart)}/ask": "admin", f"{one(apart)}/resolve": "admin", event: "support"}
    check_offices(app, client, carol, {**pages, f"{event}/take-up": "admin", f"{event}/resolve": "admin"})


def test_a_quarantined_payment_is_shown_with_the_difference(app: Flask, client: FlaskClient, apart: Customer) -> None:
    olga = console(app, client, "support")
    for path in ("/admin/payments", one(apart)):
        page = olga.text(path)
        assert "more than asked" in page.lower()
        assert "99.00 USD" in page
    told = run(app, "SELECT data FROM audit_events WHERE action = 'payment.quarantined'")[0].data["told_minor"]
    difference = f"{(told - 9900) / 100:.2f} USD more"
    assert difference in olga.text("/admin/payments")


def test_asking_again_books_nothing_while_the_answer_stays(app: Flask, client: FlaskClient, apart: Customer) -> None:
    page = console(app, client).does(f"{one(apart)}/ask")
    assert "The payment is quarantined now." in page
    assert log(app, "payment.asked_about") == BOTH
    assert apart.invoice().state == "open"


def test_asking_again_books_what_the_provider_confirms(app: Flask, client: FlaskClient, customer: Customer) -> None:
    customer.choose(customer.begin(), "pay")
    assert customer.payment().state == "pending"
    assert "The payment is succeeded now." in console(app, client).does(f"{one(customer)}/ask")
    assert (customer.invoice().state, customer.payment().captured_minor) == ("paid", 9900)


def test_a_provider_that_is_not_configured_changes_nothing(app: Flask, client: FlaskClient, apart: Customer) -> None:
    path = f"{one(apart)}/ask"
    olga = console(app, client)
    fields = {**olga.form(path), "reason": "ticket 4711: no keys here"}
    run(app, "UPDATE payments SET provider_reference = NULL")
    answer = olga.send(path, fields)
    assert (answer.status_code, "nothing to ask" in problem(answer)) == (409, True)


def test_a_payment_is_resolved_once(app: Flask, client: FlaskClient, apart: Customer) -> None:
    olga = console(app, client)
    assert "The payment is canceled now." in olga.does(f"{one(apart)}/resolve")
    assert log(app, "payment.resolved") == BOTH
    answer = olga.act(f"{one(apart)}/resolve")
    assert (answer.status_code, "not quarantined" in problem(answer)) == (409, True)
    assert (apart.invoice().state, apart.payment().captured_minor) == ("open", 0)


def test_an_event_of_nobody_is_taken_up_again_and_resolved(app: Flask, client: FlaskClient, customer: Customer) -> None:
    event, olga = strange(app, customer), console(app, client)
    assert "unknown_reference" in olga.text("/admin/payments/events?status=quarantined")
    olga.does(f"{event}/take-up")
    assert state_of(app, event) == "received"
    jobs.process_inbox()
    assert state_of(app, event) == "quarantined"
    olga.does(f"{event}/resolve")
    assert state_of(app, event) == "ignored"
    assert [log(app, f"payment_event.{verb}") for verb in ("taken_up", "resolved")] == [PLATFORM, PLATFORM]
    assert olga.act(f"{event}/resolve").status_code == 409


def test_an_events_body_is_not_shown(app: Flask, client: FlaskClient, customer: Customer) -> None:
    event = strange(app, customer)
    run(app, "UPDATE provider_events SET body = 'customer@secret.example'::bytea")
    assert "secret.example" not in console(app, client).text(event)


def test_payments_and_events_are_files_too(app: Flask, client: FlaskClient, apart: Customer) -> None:
    olga = console(app, client, "support")
    payments = olga.open("/admin/payments?format=csv&status=quarantined").get_data(as_text=True).splitlines()
    events = olga.open("/admin/payments/events?format=csv").get_data(as_text=True).splitlines()
    assert (len(payments), "more_than_asked" in payments[1], len(events) >= 2) == (2, True, True)


def test_an_unknown_payment_or_event_is_not_found(app: Flask, client: FlaskClient) -> None:
    olga: Console = console(app, client)
    paths = (f"pay_{'0' * 32}", "events/mock/evt_nobodys", "events/mock/evt_nobodys/resolve")
    assert [olga.open(f"/admin/payments/{path}").status_code for path in paths] == [404] * 3
