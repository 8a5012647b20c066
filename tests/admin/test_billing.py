"""Billing of all organizations at the console: what is due, a dry run, the close itself, and who is parked."""

import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import Person, sign_up
from tests.support.billing import BillingOrganization, day
from tests.support.console import BOTH, PLATFORM, REASON, Console, check_offices, console, log, problem, run

PAGES = {
    "/admin/billing": "support",
    "/admin/billing/close": "admin",
    "/admin/invoices": "support",
    "/admin/payments": "support",
    "/admin/payments/events": "support",
}


def ended(app: Flask, client: FlaskClient, name: str = "Acme") -> tuple[BillingOrganization, Person]:
    """A company on a paid plan whose April is over and not invoiced."""
    clock.freeze_time(day(1))
    person = sign_up(client, f"alice@{name.lower()}.example", name)
    company = BillingOrganization(ids.parse_id("org", person.organization_id))
    with app.app_context():
        with company.transaction() as session:
            periods.ensure_account(session, company.id)
        company.switch("pro@1", clock.now())
        clock.freeze_time(day(1, 2, month=5))
        periods.ensure_accounts(clock.now(), company.id)
    clock.freeze_time(None)
    return company, person


def invoices(app: Flask, company: BillingOrganization) -> list[Any]:
    with app.app_context():
        return company.rows(
            "SELECT state, total_minor FROM invoices WHERE billing_period_id IS NOT NULL ORDER BY serial"
        )


def park(app: Flask, company: BillingOrganization) -> None:
    run(
        app,
        "UPDATE billing_profiles SET parked_at = now(), parked_reason = 'check sums.lines' WHERE organization_id = :id",
        id=company.id,
    )


def test_only_operators_find_the_pages(app: Flask, client: FlaskClient, alice: Person) -> None:
    organization = alice.organization_id
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", organization)) as session:
        periods.ensure_account(session, ids.parse_id("org", organization))
    more = {f"/admin/billing/close/{organization}": "admin", f"/admin/billing/unpark/{organization}": "admin"}
    check_offices(app, client, alice, {**PAGES, **more})


def test_a_dry_run_shows_what_a_close_writes_and_writes_nothing(app: Flask, client: FlaskClient) -> None:
    company, _ = ended(app, client)
    olga = console(app, client)
    assert "Acme" in olga.text("/admin/billing")
    page = olga.text(f"/admin/billing/close/{ids.format_id('org', company.id)}")
    assert "99.00 USD" in page
    assert not invoices(app, company)


def test_close_due_writes_the_invoices_of_the_dry_run(app: Flask, client: FlaskClient) -> None:
    company, _ = ended(app, client)
    olga = console(app, client)
    page = olga.does(f"/admin/billing/close/{ids.format_id('org', company.id)}")
    assert "Invoices written: " in page
    assert ("open", 9900) in [tuple(row) for row in invoices(app, company)]
    assert log(app, "billing.close_asked") == BOTH
    assert "closing now would write no invoice" in olga.text(f"/admin/billing/close/{ids.format_id('org', company.id)}")


def test_a_form_that_is_sent_twice_closes_once(app: Flask, client: FlaskClient) -> None:
    ended(app, client)
    olga = console(app, client)
    fields = {**olga.form("/admin/billing/close"), "reason": REASON}
    answers = [olga.send("/admin/billing/close", fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert log(app, "billing.close_asked") == PLATFORM


def test_a_close_needs_a_reason_and_a_fresh_password(app: Flask, client: FlaskClient) -> None:
    company, _ = ended(app, client)
    path = f"/admin/billing/close/{ids.format_id('org', company.id)}"
    short = console(app, client).act(path, reason="because")
    assert (short.status_code, "at least 10 characters" in problem(short)) == (422, True)
    stale = Console(app)
    answer = stale.send(path, {"reason": REASON})
    assert answer.status_code in (401, 400)
    assert not invoices(app, company)


def test_an_old_session_is_asked_for_its_password_and_keeps_what_was_typed(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, _ = ended(app, client)
    olga = console(app, client)
    path = f"/admin/billing/close/{ids.format_id('org', company.id)}"
    fields = {**olga.form(path), "reason": REASON}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 700)
    asked = olga.send(path, fields)
    assert (asked.status_code, REASON in asked.text, "confirm_password" in asked.text) == (422, True, True)
    assert not invoices(app, company)
    given = olga.send(path, {**fields, "confirm_password": "correct horse battery"})
    assert given.status_code == 303
    assert invoices(app, company)


def test_a_parked_organization_is_shown_unparked_and_its_draft_finalized(app: Flask, client: FlaskClient) -> None:
    company, _ = ended(app, client)
    park(app, company)
    olga = console(app, client)
    olga.does(f"/admin/billing/close/{ids.format_id('org', company.id)}")
    assert {row.state for row in invoices(app, company)} == {"draft"}
    page = olga.text("/admin/billing")
    assert "check sums.lines" in page
    assert "Draft of" in page
    olga.does(f"/admin/billing/unpark/{ids.format_id('org', company.id)}")
    assert log(app, "billing.unparked") == BOTH
    with app.app_context():
        draft = company.rows("SELECT id FROM invoices WHERE state = 'draft' ORDER BY total_minor DESC LIMIT 1")[0].id
    page = olga.does(f"/admin/invoices/{ids.format_id('inv', draft)}/finalize")
    assert "The invoice is final." in page
    assert log(app, "invoice.reviewed") == BOTH


def test_unparking_who_is_not_parked_says_so(app: Flask, client: FlaskClient) -> None:
    company, _ = ended(app, client)
    assert "It was not parked." in console(app, client).does(
        f"/admin/billing/unpark/{ids.format_id('org', company.id)}"
    )
    assert not log(app, "billing.unparked")


def test_the_last_runs_of_closing_are_shown(app: Flask, client: FlaskClient) -> None:
    run(
        app,
        """INSERT INTO job_runs (job, scheduled_for, host, state, finished_at, error)
          VALUES ('billing.close', now() - interval '1 h', 'h:1', 'failed', now(), 'RuntimeError: 1 organizations')""",
    )
    assert "RuntimeError: 1 organizations" in console(app, client, "support").text("/admin/billing")
