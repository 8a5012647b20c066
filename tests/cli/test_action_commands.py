"""Commands made from the table of operators' actions: arguments, exit codes, JSON shapes and audit events."""

import json
from datetime import timedelta
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from saas_api.billing.schemas import CreditNoteOut, GrantOut
from saas_api.core import clock, ids
from saas_api.payments import jobs
from saas_api.payments.schemas import PaymentOut
from tests.support.accounts import User
from tests.support.console import execute_sql
from tests.support.payments import PayingOrganization, acme, client  # noqa: F401 - fixtures

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
def draft(app: Flask, acme: PayingOrganization) -> tuple[str, str]:  # noqa: F811 - the fixture
    """Public ids of an organization and of its draft invoice."""
    execute_sql(app, "UPDATE billing_profiles SET parked_at = now(), parked_reason = 'check sums.lines'")
    organization_id, invoice_id = ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id)
    assert flask(app, "billing", "void", organization_id, invoice_id, *REASON, "--replace").exit_code == 0
    [row] = execute_sql(app, "SELECT id FROM invoices WHERE state = 'draft'")
    return organization_id, ids.format_id("inv", row.id)


def test_void_prints_the_replacement(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    organization_id, invoice_id = ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id)
    data = flask_json(app, "billing", "void", organization_id, invoice_id, *REASON, "--replace")
    replacement = data.pop("replacement")
    assert data == {"id": invoice_id, "status": "void"}
    assert set(replacement) == INVOICE_FIELDS
    assert (replacement["total_amount"], replacement["status"]) == ("99.00", "open")
    assert actors(app, "invoice.voided") == [("system", "reviewed")]


def test_credit_takes_amounts_off_lines(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    target = ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id)
    [line] = execute_sql(app, "SELECT id FROM invoice_lines WHERE amount_minor > 0")
    options = ("--line", f"{ids.format_id('lin', line.id)}=9.00", "--kind", "goodwill", "--memo", "sorry", *REASON)
    data = flask_json(app, "billing", "credit", *target, *options)
    assert set(data) == set(CreditNoteOut().fields)
    assert (data["number"], data["amount"], data["to_due"], data["to_wallet"]) == ("CN-000001", "9.00", "9.00", "0.00")
    assert data["lines"] == [{"line_id": ids.format_id("lin", line.id), "amount": "9.00"}]
    assert execute_sql(app, "SELECT reason, memo FROM credit_notes") == [("goodwill", "sorry")]
    assert actors(app, "credit_note.issued") == [("system", "reviewed")]


def test_grant_prints_the_credit_with_its_end(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    organization_id, last_day = ids.format_id("org", acme.id), clock.now().date() + timedelta(days=30)
    options = ("--kind", "purchased", "--expires-on", last_day.isoformat(), *REASON)
    data = flask_json(app, "billing", "grant", organization_id, "25.00", *options)
    assert set(data) == set(GrantOut().fields)
    assert data["id"].startswith("grt_")
    expires_at = f"{last_day + timedelta(days=1)}T00:00:00.000Z"
    assert (data["amount"], data["remaining"], data["expires_at"]) == (
        "25.00",
        "0.00",
        expires_at,
    )  # the open invoice took it
    assert execute_sql(app, "SELECT kind FROM credit_grants") == [("purchased",)]
    assert actors(app, "credit_grant.created") == [("system", "reviewed")]


def test_close_records_its_name_when_no_reason_is_given(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811
    organization = ("--organization", ids.format_id("org", acme.id))
    assert flask_json(app, "billing", "close", "--dry-run", *organization, *REASON)["dry_run"] is True
    assert actors(app, "billing.close_asked") == []
    closed = flask_json(app, "billing", "close", *organization)
    assert (set(closed), closed["dry_run"]) == ({"closed", "invoices", "dry_run"}, False)
    assert set(actors(app, "billing.close_asked")) == {("system", "flask billing close")}


def test_close_now_excludes_another_time(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    target = ("--organization", ids.format_id("org", acme.id))
    result = flask(app, "billing", "close", "--now", "--at", "2026-05-01T02:00:00Z", *target)
    assert (result.exit_code, result.stderr.partition(".")[0]) == (2, "--now and --at exclude each other")


def test_close_at_another_time_is_refused_in_production(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    result = flask(app, "billing", "close", "--at", "2026-05-01T02:00:00Z")
    assert (result.exit_code, result.stderr.partition(".")[0]) == (1, "--at: Not available in production")


def test_check_asks_the_provider_and_prints_the_payment(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811
    acme.choose(acme.begin(), "pay")
    payment_id = ids.format_id("pay", acme.payment().id)
    data = flask_json(app, "payments", "check", payment_id)
    assert set(data) == PAYMENT_FIELDS
    assert data["status"] == "succeeded"
    assert actors(app, "payment.answered") == [("system", "flask payments check")]


def test_impersonate_acts_as_the_named_operator(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    email, organization_id = "olga@platform.example", ids.format_id("org", acme.id)
    arguments = ("operator", "impersonate", email, organization_id, "--reason", "ticket 4711: wrong figures")
    refused = flask(app, *arguments)
    assert (refused.exit_code, refused.stderr.partition(";")[0]) == (1, f"{email} is no operator with the role admin")
    flask(app, "operator", "create", email, "--role", "admin")
    assert set(flask_json(app, *arguments)) == {"token", "expires_at"}
    assert set(actors(app, "organization.looked_at")) == {("operator", "ticket 4711: wrong figures")}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--amount", "2,50", "'2,50': Not an amount"),
        ("--kind", "nonsense", "'nonsense' is not one of"),
        ("--line", "lin_1=2.50", "'lin_1=2.50': Not a valid lin_ id."),
    ],
)
def test_value_that_the_form_refuses_is_a_usage_error(app: Flask, option: str, value: str, message: str) -> None:
    result = flask(app, "billing", "credit", f"org_{1:032x}", f"inv_{1:032x}", option, value, *REASON)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_release_reports_whether_billing_was_on_hold(app: Flask, draft: tuple[str, str]) -> None:
    organization_id, _ = draft
    assert flask_json(app, "billing", "release", organization_id, *REASON) == {"was_on_hold": True}
    assert flask(app, "billing", "release", organization_id, *REASON).stdout == "It was not on hold.\n"
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


def test_resolve_prints_the_canceled_payment(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811 - the fixture
    acme.choose(acme.begin(), "pay_wrong")
    jobs.process_inbox()
    payment_id = ids.format_id("pay", acme.payment().id)
    data = flask_json(app, "payments", "resolve", payment_id, *REASON)
    assert set(data) == PAYMENT_FIELDS
    assert (data["payment_id"], data["status"], data["amount"]) == (payment_id, "canceled", "99.00")
    again = flask(app, "payments", "resolve", payment_id, *REASON)
    assert (again.exit_code, again.stdout) == (1, "")
    assert actors(app, "payment.resolved") == [("system", "reviewed")]


def test_record_prints_the_offline_payment_as_list_shows_it(app: Flask, acme: PayingOrganization) -> None:  # noqa: F811
    organization_id, invoice_id = ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id)
    reason = ("--reference", "MT940 0815", *REASON)
    [data] = flask_json(app, "payments", "record", organization_id, invoice_id, "120.00", *reason)["payments"]
    assert set(data) == PAYMENT_FIELDS
    assert (data["organization_id"], data["invoice_id"]) == (organization_id, invoice_id)
    assert (data["captured"], data["status"], data["settled_at"][-1]) == ("120.00", "succeeded", "Z")
    assert flask_json(app, "payments", "list")["payments"] == [data]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["billing", "release", f"org_{1:032x}"], "There is no organization org_"),
        (["billing", "finalize", f"org_{1:032x}", f"inv_{1:032x}"], "There is no organization org_"),
        (["payments", "resolve", f"pay_{1:032x}"], "NOT_FOUND: Not found."),
    ],
)
def test_an_unknown_subject_is_one_line_with_exit_code_1(app: Flask, arguments: list[str], message: str) -> None:
    result = flask(app, *arguments, *REASON)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)


def test_reason_that_an_action_requires_is_asked_for(app: Flask, alice: User) -> None:
    result = app.test_cli_runner().invoke(args=["organizations", "suspend", alice.organization_id])
    assert (result.exit_code, "Missing option '--reason'" in result.stderr) == (2, True)
