"""Actions on an organization: limits, plan, credit, bill now, impersonation; each is in both audit logs."""

from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor
from saas_api.billing import service_terms
from saas_api.billing.service_terms import LimitOverrides
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import User, make_key, sign_in
from tests.support.console import (
    IN_BOTH_LOGS,
    REASON,
    audit_log,
    execute_sql,
    open_console,
    organization_page,
    send_message,
)
from tests.support.currencies import plans_in_other_currencies  # noqa: F401 - a fixture
from tests.support.pages import Browser
from tests.support.rate_limits import stay_within_a_minute


def test_rate_limit_override_applies_to_the_next_request_until_removed(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    key, browser, page = make_key(client, alice), open_console(app, olga), f"{organization_page(alice)}/limits"
    stay_within_a_minute(5)
    assert send_message(client, key)[0] == 202
    assert browser.submit(page, rate_limit="1", reason=REASON).status_code == 303
    assert send_message(client, key)[0] == 429
    assert "Override active" in browser.open(organization_page(alice)).text
    assert browser.submit(page, rate_limit="", reason=REASON).status_code == 303
    assert send_message(client, key)[0] == 202
    assert sorted(audit_log(app, "limits.changed")) == sorted(IN_BOTH_LOGS * 2)


def test_quota_of_zero_stops_a_meter(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    key, browser = make_key(client, alice), open_console(app, olga)
    assert browser.submit(f"{organization_page(alice)}/limits", quota_sms="0", reason=REASON).status_code == 303
    assert send_message(client, key) == (429, "QUOTA_EXCEEDED")
    assert browser.form(f"{organization_page(alice)}/limits")["quota_sms"] == ["0"]


@pytest.mark.usefixtures("plans_in_other_currencies")
def test_operator_changes_the_currency_before_the_first_invoice(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    """B13: the console changes the currency, and its plan page offers free in it."""
    browser, page = open_console(app, olga), organization_page(alice)
    assert "The currency changes from USD to NGN" in browser.open(f"{page}/plan?plan=lagos&when=now").text
    assert browser.submit(f"{page}/currency", currency="ZAR", reason=REASON).status_code == 422
    assert browser.submit(f"{page}/currency", currency="NGN", reason=REASON).status_code == 303
    assert sorted(audit_log(app, "subscription.changed")) == IN_BOTH_LOGS
    assert "Free, NGN\N{NO-BREAK SPACE}0.00 a month" in browser.open(f"{page}/plan").text
    subscription = client.get("/api/v1/billing/subscription", headers=alice.headers).json["data"]
    assert (subscription["plan"]["version"], subscription["plan"]["currency"]) == ("free@2", "NGN")


def test_plan_page_of_the_console_warns_of_a_spend_cap_that_would_block(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    """B11: the operator sees that calls would be refused."""
    client.put("/api/v1/billing/spend-cap", json={"amount": "120.00"}, headers=alice.headers)
    page = open_console(app, olga).open(f"{organization_page(alice)}/plan?plan=scale&when=period_end").text
    assert "Calls would be refused: the spend cap is $120.00" in page


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate_limit", "0"),
        ("rate_limit", "fast"),
        ("quota_sms", "-1"),
        ("quota_sms", "1.5"),
        ("expires_on", "2020-01-01"),
        ("expires_on", "soon"),
    ],
)
def test_invalid_limit_is_named_and_kept_in_the_form(
    app: Flask, alice: User, olga: User, field: str, value: str
) -> None:
    values = {"rate_limit": "5", "reason": REASON, field: value}
    response = open_console(app, olga).submit(f"{organization_page(alice)}/limits", **values)
    assert response.status_code == 422
    assert f'id="e-{field}"' in response.text
    assert f'value="{value}"' in response.text
    assert execute_sql(app, "SELECT 1 FROM organization_limits") == []


def test_overrides_require_existing_meters(context: Flask, alice: User) -> None:
    organization_id, actor = ids.parse_id("org", alice.organization_id), Actor("operator", None)
    with tenancy.system_session("operator.command") as session:
        with pytest.raises(ValidationFailed):
            service_terms.set_overrides(session, organization_id, LimitOverrides(), actor, REASON)
        pigeons = LimitOverrides(quotas={"pigeon": Decimal(1)})
        with pytest.raises(ValidationFailed):
            service_terms.set_overrides(session, organization_id, pigeons, actor, REASON)
        later = clock.now() + timedelta(days=1)
        overrides = LimitOverrides(5, {"sms": Decimal(10)}, later)
        service_terms.set_overrides(session, organization_id, overrides, actor, REASON)
        assert service_terms.get_overrides(session, organization_id) == overrides


def test_plan_change_is_previewed_before_it_is_made(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    browser, page = open_console(app, olga), f"{organization_page(alice)}/plan"
    preview = browser.open(f"{page}?plan=pro&when=now")
    assert "from <strong>free@1</strong> to <strong>pro@1</strong>" in preview.text.lower()
    assert execute_sql(app, "SELECT 1 FROM audit_events WHERE action = 'subscription.changed'") == []
    response = browser.submit(f"{page}?plan=pro&when=now", page, reason=REASON)
    assert response.status_code == 303
    plan = client.get("/api/v1/billing/subscription", headers=alice.headers)
    assert "pro" in plan.text
    assert sorted(audit_log(app, "subscription.changed")) == IN_BOTH_LOGS


def test_current_plan_cannot_be_chosen(app: Flask, alice: User, olga: User) -> None:
    preview = open_console(app, olga).open(f"{organization_page(alice)}/plan?plan=free&when=now")
    assert preview.status_code == 422
    assert "on this plan already" in preview.text


def test_credit_form_submitted_twice_grants_once(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    browser, page = open_console(app, olga), f"{organization_page(alice)}/credit"
    fields = {**browser.form(page), "amount": "25.00", "reason": REASON}
    first, second = browser.send(page, fields), browser.send(page, fields)
    assert (
        (first.status_code, first.location) == (second.status_code, second.location) == (303, organization_page(alice))
    )
    assert execute_sql(app, "SELECT amount_minor, kind FROM credit_grants") == [(2500, "promotional")]
    assert "$25.00" in browser.open(organization_page(alice)).text
    assert sorted(audit_log(app, "credit_grant.created")) == IN_BOTH_LOGS
    (event,) = client.get("/api/v1/organization/audit-log?action=credit_grant.created", headers=alice.headers).json[
        "data"
    ]["entries"]
    assert event["target"]["id"].startswith("grt_")


@pytest.mark.parametrize("amount", ["0", "-5", "1.001", "much", "1e3"])
def test_credit_requires_a_positive_amount(app: Flask, alice: User, olga: User, amount: str) -> None:
    response = open_console(app, olga).submit(f"{organization_page(alice)}/credit", amount=amount, reason=REASON)
    assert response.status_code == 422
    assert 'id="e-amount"' in response.text
    assert execute_sql(app, "SELECT 1 FROM credit_grants") == []


def test_bill_now_previews_and_then_writes_the_invoice(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    key, browser, page = make_key(client, alice), open_console(app, olga), f"{organization_page(alice)}/bill-now"
    assert browser.submit(
        f"{organization_page(alice)}/plan?plan=pro&when=now", f"{organization_page(alice)}/plan", reason=REASON
    )
    assert send_message(client, key)[0] == 202
    preview = browser.open(page).text
    assert "$0.01" in preview
    assert "Cost so far" in preview
    assert "has just started" in preview
    assert execute_sql(app, "SELECT 1 FROM invoices") == []
    assert browser.submit(page, name="Acme", reason="short").status_code == 422
    assert browser.submit(page, name="Acne", reason=REASON).status_code == 422
    assert execute_sql(app, "SELECT 1 FROM invoices") == []
    response = browser.submit(page, name="Acme", reason=REASON)
    assert (response.status_code, response.location) == (303, organization_page(alice))
    [(total,)] = execute_sql(app, "SELECT sum(amount_minor) FROM invoice_lines WHERE kind = 'usage'")
    assert total == 1
    assert "1 period closed" in browser.open(organization_page(alice)).text
    assert sorted(audit_log(app, "billing.billed_now")) == IN_BOTH_LOGS


def test_impersonation_shows_the_dashboard_until_it_is_stopped(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    response = browser.submit(f"{organization_page(alice)}/view-as", reason=REASON)
    assert (response.status_code, response.location) == (303, "/dashboard")
    cookie = browser.client.get_cookie("impersonation")
    assert cookie is not None
    assert (cookie.http_only, cookie.same_site, cookie.max_age) == (True, "Lax", 3600)
    dashboard = browser.open("/dashboard")
    assert dashboard.status_code == 200
    assert "You are viewing Acme" in dashboard.text
    assert browser.open("/admin").status_code == 200
    ended = browser.submit("/dashboard", "/admin/impersonation/end")
    assert (ended.status_code, ended.location) == (303, organization_page(alice))
    assert browser.client.get_cookie("impersonation") is None
    assert "You are viewing Acme" not in browser.open("/dashboard").text
    assert sorted(audit_log(app, "organization.looked_at")) == IN_BOTH_LOGS
    assert len(audit_log(app, "organization.look_ended")) == 2
    assert (
        execute_sql(app, "SELECT 1 FROM user_sessions WHERE user_agent LIKE 'looks at%' AND revoked_at IS NULL") == []
    )


def test_viewing_operator_sees_the_banner_of_the_customer_too(app: Flask, alice: User, olga: User) -> None:
    """R17: the notice of the operator replaced that of the organization."""
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/view-as", reason=REASON)
    browser.open("/dashboard/billing")  # opens the account
    execute_sql(app, "UPDATE subscriptions SET standing = 'restricted'")
    page = browser.open("/dashboard").text
    assert ("You are viewing Acme" in page, "Sending is stopped." in page) == (True, True)


def test_support_cannot_impersonate(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga, "support")
    assert browser.open(f"{organization_page(alice)}/view-as").status_code == 404
    assert "View as" not in browser.open(organization_page(alice)).text


def test_impersonation_allows_preferences_and_sign_out_only(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/view-as", reason=REASON)
    theme = browser.submit("/dashboard", "/preferences", theme="dark", mode=None)
    assert (theme.status_code, theme.location) == (303, "/dashboard")
    form = browser.form("/dashboard", "/preferences")
    assert browser.send("/dashboard/first-steps", form).status_code == 403
    assert browser.submit("/dashboard", "/logout").location == "/login"
    assert browser.client.get_cookie("impersonation") is None
    assert browser.open("/dashboard").status_code == 303


def test_impersonation_token_ends_with_the_operators_session(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    """Small: after the sign-out the token of the cookie went on reading the API for the rest of its hour."""
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/view-as", reason=REASON)
    cookie = browser.client.get_cookie("impersonation")
    assert cookie is not None
    headers = {"Authorization": f"Bearer {cookie.value}"}
    assert client.get("/api/v1/usage", headers=headers).status_code == 401, "the cookie is for pages only"
    other = Browser(app, sign_in(client, olga.email))
    other.client.set_cookie("impersonation", cookie.value)
    assert "Acme" in other.open("/dashboard").text
    assert browser.submit("/dashboard", "/logout").location == "/login"
    assert "Acme" not in other.open("/dashboard").text
