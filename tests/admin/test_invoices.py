"""Invoices at the console: filters, pages, CSV, void, write-off and credit notes."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.billing import period_close
from saas_api.core import clock, ids
from tests.support.accounts import User
from tests.support.billing import day
from tests.support.console import (
    IN_BOTH_LOGS,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)
from tests.support.payments import IsolatedClient, PayingOrganization


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


def invoice_page(acme: PayingOrganization) -> str:
    return f"/admin/invoices/{ids.format_id('inv', acme.invoice_id)}"


def test_pages_require_an_operator_role(app: Flask, client: FlaskClient, acme: PayingOrganization, carol: User) -> None:
    actions = {
        f"{invoice_page(acme)}/{verb}": "admin"
        for verb in ("void", "write-off", "credit", "finalize", "redo", "delete")
    }
    check_operator_access(app, client, carol, {invoice_page(acme): "support", **actions})


def test_unknown_invoice_is_not_found(app: Flask, client: FlaskClient) -> None:
    assert sign_in_operator(app, client).open(f"/admin/invoices/inv_{'0' * 32}").status_code == 404


def test_invoices_are_found_by_state_age_and_number(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    olga = sign_in_operator(app, client, "support")
    number = acme.invoice().number
    clock.freeze_time(day(20, month=5))
    matches = {
        path: number in olga.read(f"/admin/invoices?{path}")
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
    assert matches == {
        "status=open": True,
        "status=overdue": True,
        "status=paid": False,
        "days=1": True,
        "days=90": False,
        f"number={number.lower()}": True,
        "": True,
    }


def test_quantity_of_a_line_has_no_exponent(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    """G4: 50 SMS were shown as 5E+1."""
    clock.freeze_time(day(20, month=5))
    acme.use(50)
    [closed] = period_close.close_due(day(1, 2, month=6), acme.id).invoices
    clock.freeze_time(None)
    page = sign_in_operator(app, client, "support").read(f"/admin/invoices/{ids.format_id('inv', closed.invoice.id)}")
    assert '<td data-th="Quantity" class="num">50</td>' in page


def test_unknown_filter_values_are_rejected(app: Flask, client: FlaskClient) -> None:
    olga = sign_in_operator(app, client)
    paths = (
        "invoices?status=lost",
        "invoices?days=-1",
        "invoices?cursor=x",
        "invoices?nothing=1",
        "payments?provider=x",
    )
    assert [olga.open(f"/admin/{path}").status_code for path in paths] == [422] * 5


def test_pages_of_a_list_contain_every_invoice_once(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    execute_sql(
        app,
        """INSERT INTO invoices (organization_id, kind, state, currency, rule_version, created_at)
          SELECT :id, 'manual', 'draft', 'USD', 1, '2026-05-03 00:00Z' FROM generate_series(1, 60)""",
        id=acme.id,
    )
    olga, ids_of_pages, path = sign_in_operator(app, client), [], "/admin/invoices?status=draft"
    while path:
        page = olga.open(path).text
        ids_of_pages += [part.partition('"')[0] for part in page.split('href="/admin/invoices/')[1:]]
        rest = page.partition('rel="next"')[0].rpartition('href="')[2] if 'rel="next"' in page else ""
        path = rest.partition('"')[0].replace("&amp;", "&")
    assert (len(ids_of_pages), len(set(ids_of_pages))) == (60, 60)


def test_csv_contains_the_filtered_rows_and_no_formula(
    app: Flask, client: FlaskClient, acme: PayingOrganization
) -> None:
    execute_sql(app, "UPDATE organizations SET name = '=HYPERLINK(1)' WHERE id = :id", id=acme.id)
    path = "/admin/invoices?status=open&format=csv&reason=ticket+4711"
    response = sign_in_operator(app, client).open(path)
    assert response.mimetype == "text/csv"
    head, row, *rest = response.get_data(as_text=True).lstrip("\ufeff").splitlines()
    assert (head.split(",")[:3], rest) == (["id", "number", "organization_id"], [])
    assert row.startswith(f"{ids.format_id('inv', acme.invoice_id)},{acme.invoice().number},")
    assert ",'=HYPERLINK(1),open,99.00,99.00,USD," in row


def test_csv_has_the_names_and_amounts_of_the_api(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    olga = sign_in_operator(app, client)
    olga.run_action(f"{invoice_page(acme)}/void")
    head, row = (
        olga.open("/admin/invoices?status=void&format=csv&reason=ticket+4711")
        .get_data(as_text=True)
        .lstrip("\ufeff")
        .splitlines()
    )
    assert head == (
        "id,number,organization_id,organization,status,total_amount,amount_due,currency,issued_at,due_date,paid_at"
    )
    assert ",void,99.00,0.00,USD," in row


def test_void_is_recorded_in_both_audit_logs(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    page = sign_in_operator(app, client).run_action(f"{invoice_page(acme)}/void")
    assert ("Invoice voided." in page, acme.invoice().state) == (True, "void")
    assert audit_log(app, "invoice.voided") == IN_BOTH_LOGS


def test_void_with_replacement_writes_a_new_invoice(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    sign_in_operator(app, client).run_action(f"{invoice_page(acme)}/void", is_replaced="1")
    states = acme.rows("SELECT state, replaces_id IS NOT NULL AS is_new FROM invoices ORDER BY serial")
    assert [tuple(row) for row in states if row.is_new or row.state == "void"] == [("void", False), ("open", True)]


def test_write_off_makes_an_invoice_uncollectible(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    page = sign_in_operator(app, client).run_action(f"{invoice_page(acme)}/write-off")
    assert ("Invoice written off." in page, acme.invoice().state) == (True, "uncollectible")
    assert audit_log(app, "invoice.marked_uncollectible") == IN_BOTH_LOGS


def test_credit_note_lowers_the_amount_due(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    page = sign_in_operator(app, client).run_action(f"{invoice_page(acme)}/credit", amount="12.35", kind="goodwill")
    assert ("$12.35" in page, acme.invoice().due_minor) == (True, 9900 - 1235)
    assert audit_log(app, "credit_note.issued") == IN_BOTH_LOGS


def test_credit_note_form_submitted_twice_writes_one(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    olga, path = sign_in_operator(app, client), f"{invoice_page(acme)}/credit"
    fields = {**olga.form(path), "reason": "ticket 4711: twice", "amount": "1.00"}
    assert [olga.send(path, fields).status_code for _ in range(2)] == [303, 303]
    assert acme.invoice().due_minor == 9800


@pytest.mark.parametrize(
    ("amount", "status", "message"),
    [("99.01", 409, "more than what is left"), ("0.001", 422, "Enter an amount in USD"), ("x", 422, "Not an amount")],
)
def test_rejected_credit_note_keeps_its_input(
    app: Flask, client: FlaskClient, acme: PayingOrganization, amount: str, status: int, message: str
) -> None:
    response = sign_in_operator(app, client).submit_action(f"{invoice_page(acme)}/credit", amount=amount)
    assert (response.status_code, message in error_summary(response), f'value="{amount}"' in response.text) == (
        status,
        True,
        True,
    )
    assert acme.invoice().due_minor == 9900


def test_action_that_the_status_forbids_is_a_conflict(
    app: Flask, client: FlaskClient, acme: PayingOrganization
) -> None:
    olga = sign_in_operator(app, client)
    olga.run_action(f"{invoice_page(acme)}/void")
    response = olga.submit_action(f"{invoice_page(acme)}/void")
    assert (response.status_code, "state of this invoice" in error_summary(response)) == (409, True)


def test_support_sees_no_actions(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    assert "/void" not in sign_in_operator(app, client, "support").read(invoice_page(acme))
    assert "/void" in sign_in_operator(app, client).read(invoice_page(acme))
