"""Billing at the console: due periods, preview and run of the close, organizations on hold."""

import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.admin import billing
from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import User, sign_up
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.console import (
    IN_BOTH_LOGS,
    IN_PLATFORM_LOG,
    REASON,
    Console,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)

PAGES = {
    "/admin/billing": "support",
    "/admin/billing/close": "admin",
    "/admin/invoices": "support",
    "/admin/payments": "support",
    "/admin/payments/events": "support",
}


def ended_period(app: Flask, client: FlaskClient, name: str = "Acme") -> tuple[BillingOrganization, User]:
    """An organization on a paid plan whose April has ended and is not invoiced."""
    clock.freeze_time(day(1))
    user = sign_up(client, f"alice@{name.lower()}.example", name)
    organization = BillingOrganization(ids.parse_id("org", user.organization_id))
    with app.app_context():
        with organization.transaction() as session:
            periods.ensure_account(session, organization.id)
        organization.switch("pro@1", clock.now())
        clock.freeze_time(day(1, 2, month=5))
        periods.ensure_accounts(clock.now(), organization.id)
    clock.freeze_time(None)
    return organization, user


def invoices(app: Flask, organization: BillingOrganization) -> list[Any]:
    with app.app_context():
        return organization.rows(
            "SELECT state, total_minor FROM invoices WHERE billing_period_id IS NOT NULL ORDER BY serial"
        )


def put_on_hold(app: Flask, organization: BillingOrganization) -> None:
    execute_sql(
        app,
        "UPDATE billing_profiles SET parked_at = now(), parked_reason = 'check sums.lines' WHERE organization_id = :id",
        id=organization.id,
    )


def test_pages_require_an_operator_role(app: Flask, client: FlaskClient, alice: User) -> None:
    organization = alice.organization_id
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", organization)) as session:
        periods.ensure_account(session, ids.parse_id("org", organization))
    more = {f"/admin/billing/close/{organization}": "admin", f"/admin/billing/unpark/{organization}": "admin"}
    check_operator_access(app, client, alice, {**PAGES, **more})


def test_due_organizations_are_listed_in_the_order_in_which_they_are_closed(context: Flask, superuser: Any) -> None:
    organizations = [create_organization(f"Tied{number}").id for number in range(8)]
    with superuser, superuser.cursor() as cursor:
        cursor.execute("ANALYZE billing_periods, billing_profiles, organizations")
    with tenancy.system_session("billing.due") as session:
        due = billing.list_due(session, day(1, 2, month=5))
    assert [organization.organization_id for organization in due] == sorted(organizations)


def test_close_preview_shows_the_invoices_and_writes_nothing(app: Flask, client: FlaskClient) -> None:
    organization, _ = ended_period(app, client)
    olga = sign_in_operator(app, client)
    assert "Acme" in olga.read("/admin/billing")
    page = olga.read(f"/admin/billing/close/{ids.format_id('org', organization.id)}")
    assert "$99.00" in page
    assert not invoices(app, organization)


def test_close_writes_the_previewed_invoices(app: Flask, client: FlaskClient) -> None:
    organization, _ = ended_period(app, client)
    olga = sign_in_operator(app, client)
    page = olga.run_action(f"/admin/billing/close/{ids.format_id('org', organization.id)}")
    assert "Invoices created: " in page
    assert ("open", 9900) in [tuple(row) for row in invoices(app, organization)]
    assert audit_log(app, "billing.close_asked") == IN_BOTH_LOGS
    assert "No invoice would be created" in olga.read(f"/admin/billing/close/{ids.format_id('org', organization.id)}")


def test_close_form_submitted_twice_closes_once(app: Flask, client: FlaskClient) -> None:
    ended_period(app, client)
    olga = sign_in_operator(app, client)
    fields = {**olga.form("/admin/billing/close"), "reason": REASON}
    responses = [olga.send("/admin/billing/close", fields) for _ in range(2)]
    assert [response.status_code for response in responses] == [303, 303]
    assert audit_log(app, "billing.close_asked") == IN_PLATFORM_LOG


def test_close_requires_a_reason_and_a_recent_sign_in(app: Flask, client: FlaskClient) -> None:
    organization, _ = ended_period(app, client)
    path = f"/admin/billing/close/{ids.format_id('org', organization.id)}"
    short = sign_in_operator(app, client).submit_action(path, reason="because")
    assert (short.status_code, "at least 10 characters" in error_summary(short)) == (422, True)
    stale = Console(app)
    response = stale.send(path, {"reason": REASON})
    assert response.status_code in (401, 400)
    assert not invoices(app, organization)


def test_old_session_is_asked_for_the_password_and_keeps_its_input(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization, _ = ended_period(app, client)
    olga = sign_in_operator(app, client)
    path = f"/admin/billing/close/{ids.format_id('org', organization.id)}"
    fields = {**olga.form(path), "reason": REASON}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 700)
    form = olga.send(path, fields)
    assert (form.status_code, REASON in form.text, "confirm_password" in form.text) == (422, True, True)
    assert not invoices(app, organization)
    response = olga.send(path, {**fields, "confirm_password": "correct horse battery"})
    assert response.status_code == 303
    assert invoices(app, organization)


def test_organization_on_hold_is_released_and_its_draft_finalized(app: Flask, client: FlaskClient) -> None:
    organization, _ = ended_period(app, client)
    put_on_hold(app, organization)
    olga = sign_in_operator(app, client)
    olga.run_action(f"/admin/billing/close/{ids.format_id('org', organization.id)}")
    assert {row.state for row in invoices(app, organization)} == {"draft"}
    page = olga.read("/admin/billing")
    assert "check sums.lines" in page
    assert "Draft of" in page
    olga.run_action(f"/admin/billing/unpark/{ids.format_id('org', organization.id)}")
    assert audit_log(app, "billing.unparked") == IN_BOTH_LOGS
    with app.app_context():
        draft = organization.rows("SELECT id FROM invoices WHERE state = 'draft' ORDER BY total_minor DESC LIMIT 1")[
            0
        ].id
    page = olga.run_action(f"/admin/invoices/{ids.format_id('inv', draft)}/finalize")
    assert "Invoice finalized." in page
    assert audit_log(app, "invoice.reviewed") == IN_BOTH_LOGS


def test_release_of_an_organization_not_on_hold_changes_nothing(app: Flask, client: FlaskClient) -> None:
    organization, _ = ended_period(app, client)
    assert "Billing was not on hold." in sign_in_operator(app, client).run_action(
        f"/admin/billing/unpark/{ids.format_id('org', organization.id)}"
    )
    assert not audit_log(app, "billing.unparked")


def test_organization_without_a_billing_profile_can_be_closed_but_not_released(
    app: Flask, client: FlaskClient, alice: User
) -> None:
    olga = sign_in_operator(app, client)
    execute_sql(app, "DELETE FROM billing_profiles")
    assert "No invoice would be created" in olga.read(f"/admin/billing/close/{alice.organization_id}")
    assert olga.open(f"/admin/billing/unpark/{alice.organization_id}").status_code == 404


def test_billing_page_shows_the_last_runs_of_the_close(app: Flask, client: FlaskClient) -> None:
    execute_sql(
        app,
        """INSERT INTO job_runs (job, scheduled_for, host, state, finished_at, error)
          VALUES ('billing.close', now() - interval '1 h', 'h:1', 'failed', now(), 'RuntimeError: 1 organizations')""",
    )
    assert "RuntimeError: 1 organizations" in sign_in_operator(app, client, "support").read("/admin/billing")
