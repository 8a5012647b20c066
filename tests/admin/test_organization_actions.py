"""What operators do to one organization's plan, limits and money, and looking at it: each act told to both logs."""

from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor
from saas_api.billing import terms
from saas_api.billing.terms import LimitOverrides
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import Person, make_key
from tests.support.console_audit import REASON, acts, desk, one, rows, send
from tests.support.gate import stay_within_a_minute

BOTH = [("Acme", "operator", REASON), ("platform", "operator", REASON)]


def test_a_limit_holds_on_the_next_request_and_ends_with_the_exception(
    app: Flask, client: FlaskClient, alice: Person, olga: Person
) -> None:
    key, browser, page = make_key(client, alice), desk(app, olga), f"{one(alice)}/limits"
    stay_within_a_minute(5)
    assert send(client, key)[0] == 202
    assert browser.submit(page, rate_limit="1", reason=REASON).status_code == 303
    assert send(client, key)[0] == 429
    assert "Exception in force" in browser.open(one(alice)).text
    assert browser.submit(page, rate_limit="", reason=REASON).status_code == 303
    assert send(client, key)[0] == 202
    assert sorted(acts(app, "limits.changed")) == [*BOTH[:1] * 2, *BOTH[1:] * 2]


def test_a_ceiling_of_nothing_stops_a_meter(app: Flask, client: FlaskClient, alice: Person, olga: Person) -> None:
    key, browser = make_key(client, alice), desk(app, olga)
    assert browser.submit(f"{one(alice)}/limits", ceiling_sms="0", reason=REASON).status_code == 303
    assert send(client, key) == (429, "QUOTA_EXCEEDED")
    assert browser.form(f"{one(alice)}/limits")["ceiling_sms"] == ["0"]


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("rate_limit", "0"),
        ("rate_limit", "fast"),
        ("ceiling_sms", "-1"),
        ("ceiling_sms", "1.5"),
        ("expires_on", "2020-01-01"),
        ("expires_on", "soon"),
    ],
)
def test_a_limit_that_is_none_is_named_and_kept_as_typed(
    app: Flask, alice: Person, olga: Person, field: str, typed: str
) -> None:
    values = {"rate_limit": "5", "reason": REASON, field: typed}
    answer = desk(app, olga).submit(f"{one(alice)}/limits", **values)
    assert answer.status_code == 422
    assert f'id="e-{field}"' in answer.text
    assert f'value="{typed}"' in answer.text
    assert rows(app, "SELECT 1 FROM organization_limits") == []


def test_exceptions_are_for_meters_that_exist(context: Flask, alice: Person) -> None:
    organization_id, actor = ids.parse_id("org", alice.organization_id), Actor("operator", None)
    with tenancy.system_session("operator.command") as session:
        with pytest.raises(ValidationFailed):
            terms.set_overrides(session, organization_id, LimitOverrides(), actor, REASON)
        pigeons = LimitOverrides(quotas={"pigeon": Decimal(1)})
        with pytest.raises(ValidationFailed):
            terms.set_overrides(session, organization_id, pigeons, actor, REASON)
        later = clock.now() + timedelta(days=1)
        kept = LimitOverrides(5, {"sms": Decimal(10)}, later)
        terms.set_overrides(session, organization_id, kept, actor, REASON)
        assert terms.get_overrides(session, organization_id) == kept


def test_a_plan_change_is_shown_before_it_is_made(app: Flask, client: FlaskClient, alice: Person, olga: Person) -> None:
    browser, page = desk(app, olga), f"{one(alice)}/plan"
    shown = browser.open(f"{page}?plan=pro&when=now")
    assert "from <strong>free@1</strong> to <strong>pro@1</strong>" in shown.text.lower()
    assert rows(app, "SELECT 1 FROM audit_events WHERE action = 'subscription.changed'") == []
    answer = browser.submit(f"{page}?plan=pro&when=now", page, reason=REASON)
    assert answer.status_code == 303
    plan = client.get("/api/v1/billing/subscription", headers=alice.headers)
    assert "pro" in plan.text
    assert sorted(acts(app, "subscription.changed")) == BOTH


def test_the_plan_it_is_on_cannot_be_chosen(app: Flask, alice: Person, olga: Person) -> None:
    shown = desk(app, olga).open(f"{one(alice)}/plan?plan=free&when=now")
    assert shown.status_code == 422
    assert "on this plan already" in shown.text


def test_credit_is_given_once_however_often_the_form_is_sent(
    app: Flask, client: FlaskClient, alice: Person, olga: Person
) -> None:
    browser, page = desk(app, olga), f"{one(alice)}/credit"
    fields = {**browser.form(page), "amount": "25.00", "reason": REASON}
    first, second = browser.send(page, fields), browser.send(page, fields)
    assert (first.status_code, first.location) == (second.status_code, second.location) == (303, one(alice))
    assert rows(app, "SELECT amount_minor, kind FROM credit_grants") == [(2500, "promotional")]
    assert "25.00 USD" in browser.open(one(alice)).text
    assert sorted(acts(app, "credit_grant.created")) == BOTH


@pytest.mark.parametrize("amount", ["0", "-5", "1.001", "much", "1e3"])
def test_credit_is_an_amount_of_money(app: Flask, alice: Person, olga: Person, amount: str) -> None:
    answer = desk(app, olga).submit(f"{one(alice)}/credit", amount=amount, reason=REASON)
    assert answer.status_code == 422
    assert 'id="e-amount"' in answer.text
    assert rows(app, "SELECT 1 FROM credit_grants") == []


def test_bill_now_shows_a_dry_run_and_then_writes_that_invoice(
    app: Flask, client: FlaskClient, alice: Person, olga: Person
) -> None:
    key, browser, page = make_key(client, alice), desk(app, olga), f"{one(alice)}/bill-now"
    assert browser.submit(f"{one(alice)}/plan?plan=starter&when=now", f"{one(alice)}/plan", reason=REASON)
    assert send(client, key)[0] == 202
    shown = browser.open(page).text
    assert "0.01 USD" in shown
    assert "began a moment ago" in shown
    assert rows(app, "SELECT 1 FROM invoices") == []
    assert browser.submit(page, name="Acme", reason="short").status_code == 422
    assert browser.submit(page, name="Acne", reason=REASON).status_code == 422
    assert rows(app, "SELECT 1 FROM invoices") == []
    answer = browser.submit(page, name="Acme", reason=REASON)
    assert (answer.status_code, answer.location) == (303, one(alice))
    [(total,)] = rows(app, "SELECT sum(amount_minor) FROM invoice_lines WHERE kind = 'usage'")
    assert total == 1
    assert "1 period closed" in browser.open(one(alice)).text
    assert sorted(acts(app, "billing.billed_now")) == BOTH


def test_an_operator_views_an_organization_and_stops(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga)
    answer = browser.submit(f"{one(alice)}/view-as", reason=REASON)
    assert (answer.status_code, answer.location) == (303, "/dashboard")
    cookie = browser.client.get_cookie("looking")
    assert cookie is not None
    assert (cookie.http_only, cookie.same_site, cookie.max_age) == (True, "Lax", 3600)
    seen = browser.open("/dashboard")
    assert seen.status_code == 200
    assert "You are viewing Acme" in seen.text
    assert browser.open("/admin").status_code == 200
    ended = browser.submit("/dashboard", "/admin/looking/end")
    assert (ended.status_code, ended.location) == (303, one(alice))
    assert browser.client.get_cookie("looking") is None
    assert "You are viewing Acme" not in browser.open("/dashboard").text
    assert sorted(acts(app, "organization.looked_at")) == BOTH
    assert len(acts(app, "organization.look_ended")) == 2
    assert rows(app, "SELECT 1 FROM user_sessions WHERE user_agent LIKE 'looks at%' AND revoked_at IS NULL") == []


def test_support_does_not_view_organizations(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga, "support")
    assert browser.open(f"{one(alice)}/view-as").status_code == 404
    assert "View as" not in browser.open(one(alice)).text


def test_who_views_an_organization_may_leave_it_and_sign_out_but_change_nothing(
    app: Flask, alice: Person, olga: Person
) -> None:
    browser = desk(app, olga)
    browser.submit(f"{one(alice)}/view-as", reason=REASON)
    theme = browser.submit("/dashboard", "/preferences", theme="dark", mode=None)
    assert (theme.status_code, theme.location) == (303, "/dashboard")
    form = browser.form("/dashboard", "/preferences")
    assert browser.send("/dashboard/first-steps", form).status_code == 403
    assert browser.submit("/dashboard", "/logout").location == "/login"
    assert browser.client.get_cookie("looking") is None
    assert browser.open("/dashboard").status_code == 303
