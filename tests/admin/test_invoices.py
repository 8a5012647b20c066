"""Invoices of all organizations at the console: found by state and age, voided, written off, credited."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from tests.support.accounts import Person
from tests.support.billing import day
from tests.support.console import BOTH, check_offices, console, log, problem, run
from tests.support.payments import Customer, Visitor


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return Visitor(app, app.response_class)


def one(customer: Customer) -> str:
    return f"/admin/invoices/{ids.format_id('inv', customer.invoice_id)}"


def test_only_operators_find_the_pages(app: Flask, client: FlaskClient, customer: Customer, carol: Person) -> None:
    acts = {
        f"{one(customer)}/{verb}": "admin" for verb in ("void", "write-off", "credit", "finalize", "redo", "delete")
    }
    check_offices(app, client, carol, {one(customer): "support", **acts})


def test_an_unknown_invoice_is_not_found(app: Flask, client: FlaskClient) -> None:
    assert console(app, client).open(f"/admin/invoices/inv_{'0' * 32}").status_code == 404


def test_invoices_are_found_by_state_age_and_number(app: Flask, client: FlaskClient, customer: Customer) -> None:
    olga = console(app, client, "support")
    number = customer.invoice().number
    clock.freeze_time(day(20, month=5))
    found = {
        path: number in olga.text(f"/admin/invoices?{path}")
        for path in (
            "status=open",
            "status=overdue",
            "status=paid",
            "days=1",
            "days=90",
            f"number={number.lower()}",
            "",
        )
    }
    assert found == {
        "status=open": True,
        "status=overdue": True,
        "status=paid": False,
        "days=1": True,
        "days=90": False,
        f"number={number.lower()}": True,
        "": True,
    }


def test_a_filter_nobody_offers_is_refused(app: Flask, client: FlaskClient) -> None:
    olga = console(app, client)
    paths = (
        "invoices?status=lost",
        "invoices?days=-1",
        "invoices?cursor=x",
        "invoices?nothing=1",
        "payments?provider=x",
    )
    assert [olga.open(f"/admin/{path}").status_code for path in paths] == [422] * 5


def test_pages_of_a_list_hold_every_invoice_once(app: Flask, client: FlaskClient, customer: Customer) -> None:
    run(
        app,
        """INSERT INTO invoices (organization_id, kind, state, currency, rule_version, created_at)
          SELECT :id, 'manual', 'draft', 'USD', 1, '2026-05-03 00:00Z' FROM generate_series(1, 60)""",
        id=customer.id,
    )
    olga, seen, path = console(app, client), [], "/admin/invoices?status=draft"
    while path:
        page = olga.open(path).text
        seen += [part.partition('"')[0] for part in page.split('href="/admin/invoices/')[1:]]
        rest = page.partition('rel="next"')[0].rpartition('href="')[2] if 'rel="next"' in page else ""
        path = rest.partition('"')[0].replace("&amp;", "&")
    assert (len(seen), len(set(seen))) == (60, 60)


def test_the_file_holds_what_the_filters_show_and_no_formula(
    app: Flask, client: FlaskClient, customer: Customer
) -> None:
    run(app, "UPDATE organizations SET name = '=HYPERLINK(1)' WHERE id = :id", id=customer.id)
    answer = console(app, client, "support").open("/admin/invoices?status=open&format=csv")
    assert answer.mimetype == "text/csv"
    head, row, *rest = answer.get_data(as_text=True).lstrip("\ufeff").splitlines()
    assert (head.split(",")[:3], rest) == (["id", "number", "organization_id"], [])
    assert row.startswith(f"{ids.format_id('inv', customer.invoice_id)},{customer.invoice().number},")
    assert ",'=HYPERLINK(1),open,99.00,99.00,USD," in row


def test_a_voided_invoice_says_who_and_why_in_both_logs(app: Flask, client: FlaskClient, customer: Customer) -> None:
    page = console(app, client).does(f"{one(customer)}/void")
    assert ("The invoice is void." in page, customer.invoice().state) == (True, "void")
    assert log(app, "invoice.voided") == BOTH


def test_a_voided_invoice_may_be_replaced(app: Flask, client: FlaskClient, customer: Customer) -> None:
    console(app, client).does(f"{one(customer)}/void", is_replaced="1")
    states = customer.rows("SELECT state, replaces_id IS NOT NULL AS is_new FROM invoices ORDER BY serial")
    assert [tuple(row) for row in states if row.is_new or row.state == "void"] == [("void", False), ("open", True)]


def test_an_invoice_is_written_off(app: Flask, client: FlaskClient, customer: Customer) -> None:
    page = console(app, client).does(f"{one(customer)}/write-off")
    assert ("The invoice is written off." in page, customer.invoice().state) == (True, "uncollectible")
    assert log(app, "invoice.marked_uncollectible") == BOTH


def test_a_credit_note_lowers_what_is_due(app: Flask, client: FlaskClient, customer: Customer) -> None:
    page = console(app, client).does(f"{one(customer)}/credit", amount="12.35", kind="goodwill")
    assert ("12.35 USD" in page, customer.invoice().due_minor) == (True, 9900 - 1235)
    assert log(app, "credit_note.issued") == BOTH


def test_a_credit_note_sent_twice_is_one(app: Flask, client: FlaskClient, customer: Customer) -> None:
    olga, path = console(app, client), f"{one(customer)}/credit"
    fields = {**olga.form(path), "reason": "ticket 4711: twice", "amount": "1.00"}
    assert [olga.send(path, fields).status_code for _ in range(2)] == [303, 303]
    assert customer.invoice().due_minor == 9800


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [("99.01", 409, "more than what is left"), ("0.001", 422, "Not an amount in USD"), ("x", 422, "Not an amount")],
)
def test_a_credit_note_that_cannot_be_keeps_what_was_typed(
    app: Flask, client: FlaskClient, customer: Customer, typed: str, status: int, said: str
) -> None:
    answer = console(app, client).act(f"{one(customer)}/credit", amount=typed)
    assert (answer.status_code, said in problem(answer), f'value="{typed}"' in answer.text) == (status, True, True)
    assert customer.invoice().due_minor == 9900


def test_what_the_state_forbids_is_said(app: Flask, client: FlaskClient, customer: Customer) -> None:
    olga = console(app, client)
    olga.does(f"{one(customer)}/void")
    answer = olga.act(f"{one(customer)}/void")
    assert (answer.status_code, "state of this invoice" in problem(answer)) == (409, True)


def test_support_is_offered_nothing_to_write(app: Flask, client: FlaskClient, customer: Customer) -> None:
    assert "/void" not in console(app, client, "support").text(one(customer))
    assert "/void" in console(app, client).text(one(customer))
