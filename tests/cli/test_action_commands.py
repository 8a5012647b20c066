"""Commands made from the table of operators' actions: arguments, exit codes, JSON shapes and audit events."""

import json
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from saas_api.core import ids
from saas_api.payments import jobs
from saas_api.payments.schemas import PaymentOut
from tests.support.console import execute_sql
from tests.support.payments import Customer, client, customer  # noqa: F401 - fixtures

REASON = ("--reason", "reviewed")
INVOICE_FIELDS = {
    *("id", "number", "status", "period", "total_amount", "amount_due", "currency", "due_date", "paid_at"),
}
PAYMENT_FIELDS = {*PaymentOut().fields, "organization_id", "reference"}


def flask(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=[*arguments])


def flask_json(app: Flask, *arguments: str) -> Any:
    result = flask(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def actors(app: Flask, action: str) -> list[tuple[str, str]]:
    """Type of the actor and reason of the audit events of an action."""
    sql = "SELECT actor_type, data->>'reason' AS reason FROM audit_events WHERE action = :action ORDER BY id"
    return [tuple(row) for row in execute_sql(app, sql, action=action)]


@pytest.fixture
def draft(app: Flask, customer: Customer) -> tuple[str, str]:  # noqa: F811 - the fixture
    """Public ids of an organization and of its draft invoice."""
    execute_sql(app, "UPDATE billing_profiles SET parked_at = now(), parked_reason = 'check sums.lines'")
    organization_id, invoice_id = ids.format_id("org", customer.id), ids.format_id("inv", customer.invoice_id)
    assert flask(app, "billing", "void", organization_id, invoice_id, *REASON, "--replace").exit_code == 0
    [row] = execute_sql(app, "SELECT id FROM invoices WHERE state = 'draft'")
    return organization_id, ids.format_id("inv", row.id)


def test_void_prints_the_replacement(app: Flask, customer: Customer) -> None:  # noqa: F811 - the fixture
    organization_id, invoice_id = ids.format_id("org", customer.id), ids.format_id("inv", customer.invoice_id)
    data = flask_json(app, "billing", "void", organization_id, invoice_id, *REASON, "--replace")
    replacement = data.pop("replacement")
    assert data == {"id": invoice_id, "status": "void"}
    assert set(replacement) == INVOICE_FIELDS
    assert (replacement["total_amount"], replacement["status"]) == ("99.00", "open")
    assert actors(app, "invoice.voided") == [("system", "reviewed")]


def test_release_reports_whether_billing_was_on_hold(app: Flask, draft: tuple[str, str]) -> None:
    organization_id, _ = draft
    assert flask_json(app, "billing", "release", organization_id, *REASON) == {"was_parked": True}
    assert flask(app, "billing", "release", organization_id, *REASON).stdout == "It was not parked.\n"
    assert actors(app, "billing.unparked") == [("system", "reviewed")]


def test_finalize_recalculates_or_finalizes_a_draft(app: Flask, draft: tuple[str, str]) -> None:
    recalculated = flask(app, "billing", "finalize", *draft, *REASON, "--redo")
    assert recalculated.stdout == f"(draft) {draft[1]} 99.00 USD draft\n"
    assert flask(app, "billing", "release", draft[0], *REASON).exit_code == 0
    finalized = flask_json(app, "billing", "finalize", *draft, *REASON)
    assert set(finalized) == INVOICE_FIELDS
    period, due_date = finalized.pop("period"), finalized.pop("due_date")
    assert (period["ends_at"], due_date[-1]) == ("2026-05-01T00:00:00.000Z", "Z")
    assert finalized == {
        "id": draft[1],
        "number": "INV-000002",
        "total_amount": "99.00",
        "amount_due": "99.00",
        "currency": "USD",
        "status": "open",
        "paid_at": None,
    }


def test_finalize_with_delete_deletes_the_draft(app: Flask, draft: tuple[str, str]) -> None:
    data = flask_json(app, "billing", "finalize", *draft, *REASON, "--delete")
    assert data == {"id": draft[1], "status": "deleted"}
    assert execute_sql(app, "SELECT 1 FROM invoices WHERE state = 'draft'") == []


def test_flags_of_two_actions_are_a_usage_error(app: Flask, draft: tuple[str, str]) -> None:
    result = flask(app, "billing", "finalize", *draft, *REASON, "--redo", "--delete")
    assert result.exit_code == 2
    assert result.stderr.startswith("--redo and --delete exclude each other.")
    assert len(execute_sql(app, "SELECT 1 FROM invoices WHERE state = 'draft'")) == 1


def test_resolve_prints_the_canceled_payment(app: Flask, customer: Customer) -> None:  # noqa: F811 - the fixture
    customer.choose(customer.begin(), "pay_wrong")
    jobs.process_inbox()
    payment_id = ids.format_id("pay", customer.payment().id)
    data = flask_json(app, "payments", "resolve", payment_id, *REASON)
    assert set(data) == PAYMENT_FIELDS
    assert (data["payment_id"], data["status"], data["amount"]) == (payment_id, "canceled", "99.00")
    again = flask(app, "payments", "resolve", payment_id, *REASON)
    assert (again.exit_code, again.stdout) == (1, "")
    assert actors(app, "payment.resolved") == [("system", "reviewed")]


def test_record_prints_the_offline_payment_as_list_shows_it(app: Flask, customer: Customer) -> None:  # noqa: F811
    organization_id, invoice_id = ids.format_id("org", customer.id), ids.format_id("inv", customer.invoice_id)
    reason = ("--reference", "MT940 0815", *REASON)
    data = flask_json(app, "payments", "record", organization_id, invoice_id, "120.00", *reason)
    assert set(data) == PAYMENT_FIELDS
    assert (data["organization_id"], data["invoice_id"]) == (organization_id, invoice_id)
    assert (data["captured"], data["status"], data["settled_at"][-1]) == ("120.00", "succeeded", "Z")
    assert flask_json(app, "payments", "list")["payments"] == [data]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["billing", "release", f"org_{1:032x}"], "There is no organization org_"),
        (["billing", "finalize", f"org_{1:032x}", f"inv_{1:032x}"], "NOT_FOUND: There is nothing here."),
        (["payments", "resolve", f"pay_{1:032x}"], "There is no payment pay_"),
    ],
)
def test_an_unknown_subject_is_one_line_with_exit_code_1(app: Flask, arguments: list[str], message: str) -> None:
    result = flask(app, *arguments, *REASON)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
