"""Operators close an organization, set its billing terms and revoke a credit, at the console and by commands."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import User, make_key
from tests.support.console import IN_BOTH_LOGS, REASON, audit_log, execute_sql, open_console, organization_page

KEY_REFUSED = 401


def run(app: Flask, *arguments: str) -> Any:
    result = app.test_cli_runner().invoke(args=[*arguments, "--reason", REASON, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_operator_closes_an_organization_at_the_console(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    """B15: the page says what is open; afterwards keys are revoked and the organization's page says closed."""
    key, browser, page = make_key(client, alice), open_console(app, olga), organization_page(alice)
    assert "Final invoice if closed now" in browser.open(f"{page}/close").text
    assert browser.submit(f"{page}/close", name="Acne", reason=REASON).status_code == 422
    response = browser.submit(f"{page}/close", name="Acme", reason=REASON)
    assert (response.status_code, response.location) == (303, page)
    shown = browser.open(page).text
    assert "Acme closed. Invoices created: INV-000001" in shown
    assert f"{page}/close" not in shown
    assert client.get("/api/v1/messages", headers=key).status_code == KEY_REFUSED
    assert sorted(audit_log(app, "organization.closed")) == IN_BOTH_LOGS
    mails = "SELECT recipient FROM mails WHERE template = 'organization_closed'"
    assert execute_sql(app, mails) == [("alice@acme.example",)]
    for action in ("suspend", "resume", "close"):
        fields = {"reason": REASON, "name": "Acme"}
        refused = (
            browser.open(f"{page}/{action}") if action == "close" else browser.submit(f"{page}/{action}", **fields)
        )
        assert refused.status_code == 409


def test_operator_closes_an_organization_by_command(app: Flask, client: FlaskClient, alice: User) -> None:
    closed = run(app, "organizations", "close", alice.organization_id)
    assert (closed["status"], [invoice["total_amount"] for invoice in closed["invoices"]]) == ("closed", ["0.00"])
    result = app.test_cli_runner().invoke(
        args=["organizations", "close", alice.organization_id, "--reason", REASON, "--json"]
    )
    assert result.exit_code == 1
    assert "ORGANIZATION_CLOSED" in result.output
    assert audit_log(app, "organization.closed") == [("Acme", "system", REASON)]


def test_suspend_and_resume_by_command(app: Flask, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    assert run(app, "organizations", "suspend", alice.organization_id)["status"] == "suspended"
    assert client.get("/api/v1/messages", headers=key).status_code == 403
    assert run(app, "organizations", "resume", alice.organization_id)["status"] == "active"
    assert client.get("/api/v1/messages", headers=key).status_code == 200
    [pause] = execute_sql(app, "SELECT starts_at, ends_at FROM billing_pauses")
    assert pause.starts_at < pause.ends_at


def test_billing_terms_are_set_at_the_console(app: Flask, alice: User, olga: User) -> None:
    browser, page = open_console(app, olga), f"{organization_page(alice)}/terms"
    assert {name: browser.form(page)[name] for name in ("billing_day", "net_terms_days", "review_drafts")} == {
        "billing_day": ["1"],
        "net_terms_days": ["7"],
        "review_drafts": ["no"],
    }
    assert browser.submit(page, billing_day="32", reason=REASON).status_code == 422
    changed = browser.submit(page, billing_day="15", net_terms_days="30", review_drafts="yes", reason=REASON)
    assert changed.status_code == 303
    terms = """SELECT anchor_day, net_terms_days, review_drafts FROM subscriptions
      JOIN billing_profiles USING (organization_id)"""
    assert (15, 30, True) in [tuple(row) for row in execute_sql(app, terms)]
    assert sorted(audit_log(app, "billing_terms.changed")) == IN_BOTH_LOGS


def test_billing_terms_by_command_leave_what_is_not_given(app: Flask, alice: User) -> None:
    changed = run(app, "billing", "terms", alice.organization_id, "--net-terms-days", "30")
    assert changed == {
        "id": alice.organization_id,
        "billing_day": 1,
        "net_terms_days": 30,
        "review_drafts": False,
    }
    assert run(app, "billing", "terms", alice.organization_id, "--review-drafts", "yes")["net_terms_days"] == 30


@pytest.mark.parametrize("face", ["console", "command"])
def test_mistaken_credit_is_revoked(app: Flask, alice: User, olga: User, face: str) -> None:
    """B15: the page that adds credit lists what is left of earlier ones, and leads to its revocation."""
    granted = run(app, "billing", "grant", alice.organization_id, "25.00")
    page = organization_page(alice)
    if face == "console":
        browser, revoke = open_console(app, olga), f"{page}/credits/{granted['id']}/revoke"
        assert revoke in browser.open(f"{page}/credit").text
        assert "25.00" in browser.open(revoke).text
        assert browser.submit(revoke, reason=REASON).status_code == 303
        assert revoke not in browser.open(f"{page}/credit").text
    else:
        revoked = run(app, "billing", "revoke", alice.organization_id, granted["id"])
        assert (revoked["remaining"], revoked["entries"][-1]["amount"]) == ("0.00", "-25.00")
    assert execute_sql(app, "SELECT id, remaining_minor FROM credit_grants") == [
        (ids.parse_id("grt", granted["id"]), 0)
    ]
    assert {reason for _, _, reason in audit_log(app, "credit_grant.revoked")} == {REASON}
