"""Organizations at the console: access, search, page, suspension."""

import csv
import io
import re

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Organization
from saas_api.accounts.organizations import NotSuspendable, NotSuspended, OrganizationNotFound
from saas_api.admin import context as console_context
from saas_api.admin import lists
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import PASSWORD, User, make_key, sign_up
from tests.support.console import (
    IN_BOTH_LOGS,
    REASON,
    audit_log,
    execute_sql,
    open_console,
    organization_page,
    send_message,
)
from tests.support.pages import Browser, set_session_cookies
from tests.support.statements import count_statements

LIST = "/admin/organizations"
PAGES = {
    "GET /admin": "support",
    "GET /admin/organizations": "support",
    "GET /admin/organizations/{acme}": "support",
    "GET /admin/organizations/{acme}/suspend": "admin",
    "GET /admin/organizations/{acme}/resume": "admin",
    "GET /admin/organizations/{acme}/plan": "admin",
    "GET /admin/organizations/{acme}/limits": "admin",
    "GET /admin/organizations/{acme}/credit": "admin",
    "GET /admin/organizations/{acme}/bill-now": "admin",
    "GET /admin/organizations/{acme}/close": "admin",
    "GET /admin/organizations/{acme}/terms": "admin",
    "GET /admin/organizations/{acme}/view-as": "admin",
    "GET /admin/users": "support",
    "GET /admin/users/{alice}": "support",
    "GET /admin/users/{alice}/end-sessions": "admin",
    "GET /admin/users/{alice}/reset-mail": "support",
    "GET /admin/search": "support",
    "GET /admin/plans": "support",
    "GET /admin/plans/pro@1": "support",
    "GET /admin/plans/pro@1/retire": "admin",
    "GET /admin/meters": "support",
    "GET /admin/meters/sms": "support",
    "GET /admin/meters/new-meter": "admin",
    "GET /admin/meters/meter-file": "admin",
    "GET /admin/meters/sms/change": "admin",
    "GET /admin/meters/sms/archive": "admin",
    "GET /admin/audit": "support",
}


def paths(alice: User) -> dict[str, str]:
    return {
        name.removeprefix("GET ").format(acme=alice.organization_id, alice=alice.user_id): role
        for name, role in PAGES.items()
    }


def search(browser: Browser, query: str) -> list[str]:
    """Return the names in the CSV file of a search."""
    response = browser.open(f"{LIST}?format=csv&reason=ticket+4711&{query}")
    assert response.status_code == 200, response.text
    return [row["name"] for row in csv.DictReader(io.StringIO(response.text.removeprefix("\ufeff")))]


def test_console_is_found_by_operators_only(app: Flask, alice: User, olga: User) -> None:
    anonymous, tenant = Browser(app), Browser(app, alice)
    support = open_console(app, olga, "support")
    wrong = []
    for path, role in paths(alice).items():
        statuses = (anonymous.open(path).status_code, tenant.open(path).status_code, support.open(path).status_code)
        if statuses != (303, 404, 200 if role == "support" else 404):
            wrong.append((path, statuses))
    assert not wrong
    admin = open_console(app, olga)
    assert {path: admin.open(path).status_code for path in paths(alice)} == dict.fromkeys(paths(alice), 200)


def test_unknown_and_malformed_organization_ids_are_not_found(app: Flask, olga: User) -> None:
    browser = open_console(app, olga)
    assert browser.open(f"{LIST}/{ids.format_id('org', ids.new_id())}").status_code == 404
    assert browser.open(f"{LIST}/acme").status_code == 404


@pytest.mark.parametrize("text", ["acm", "ACME", "alice@acme", "{acme}", "{hint}"])
def test_search_finds_an_organization(
    app: Flask, client: FlaskClient, alice: User, carol: User, olga: User, text: str
) -> None:
    key = make_key(client, alice)["X-API-Key"]
    hint = key[: key.rindex("_") + 5]
    assert search(open_console(app, olga), f"q={text.format(acme=alice.organization_id, hint=hint)}") == ["Acme"]


def test_filters_exclude_other_organizations(app: Flask, alice: User, carol: User, olga: User) -> None:
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(carol)}/suspend", name="Carol & Co", reason=REASON)
    assert search(browser, "status=suspended") == ["Carol & Co"]
    assert search(browser, "status=active&q=acme") == ["Acme"]
    assert search(browser, "q=100%25") == []


def test_unknown_status_filter_shows_the_form_again(app: Flask, olga: User) -> None:
    response = open_console(app, olga).open(f"{LIST}?status=asleep&q=acme")
    assert response.status_code == 422
    assert 'value="acme"' in response.text


def test_next_page_continues_the_list(app: Flask, client: FlaskClient, olga: User) -> None:
    for number in range(3):
        sign_up(client, f"boss@organization{number}.example", f"Organization {number}")
    browser = open_console(app, olga)
    first = browser.open(f"{LIST}?q=Organization&limit=2")
    assert "Organization 2" in first.text
    assert "Organization 0" not in first.text
    following = first.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    second = browser.open(following)
    assert "Organization 0" in second.text
    assert "Organization 2" not in second.text


def test_name_of_an_organization_is_escaped(app: Flask, client: FlaskClient, olga: User) -> None:
    mallory = sign_up(client, "mallory@evil.example", "<script>alert(1)</script>")
    browser = open_console(app, olga)
    for path in (f"{LIST}?q=script", organization_page(mallory), f"{organization_page(mallory)}/suspend"):
        assert "<script>alert" not in browser.open(path).text


def test_organization_page_shows_members_keys_and_audit_events(
    app: Flask, client: FlaskClient, alice: User, bob: User, olga: User
) -> None:
    headers = make_key(client, alice, name="Production")
    key = headers["X-API-Key"]
    assert send_message(client, headers) == (202, "")
    page = open_console(app, olga).open(organization_page(alice)).text
    for text in ("alice@acme.example", "bob@acme.example", "Production", key[-4:], "api_key.created", "free@1"):
        assert text in page, text
    assert key not in page


def test_suspension_rejects_keys_on_the_next_request_until_resumed(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    key, browser = make_key(client, alice), open_console(app, olga)
    assert send_message(client, key) == (202, "")
    response = browser.submit(f"{organization_page(alice)}/suspend", name="Acme", reason=REASON)
    assert (response.status_code, response.location) == (303, organization_page(alice))
    assert send_message(client, key) == (403, "ORGANIZATION_SUSPENDED")
    assert "Suspended by an operator" in browser.open(organization_page(alice)).text
    member = Browser(app, alice)
    assert f"Reason: {REASON.rstrip('.')}." in member.open("/dashboard").text
    assert browser.submit(f"{organization_page(alice)}/resume", reason=REASON).status_code == 303
    assert "Reason:" not in member.open("/dashboard").text
    assert send_message(client, key) == (202, "")
    expected = IN_BOTH_LOGS
    assert sorted(audit_log(app, "organization.suspended")) == expected
    assert sorted(audit_log(app, "organization.resumed")) == expected
    mails = "SELECT template, recipient FROM mails WHERE template LIKE '%operator' ORDER BY created_at"
    assert execute_sql(app, mails) == [
        ("stopped_by_operator", "alice@acme.example"),
        ("resumed_by_operator", "alice@acme.example"),
    ]
    [(text,)] = execute_sql(app, "SELECT text_body FROM mails WHERE template = 'stopped_by_operator'")
    assert f"Reason:\n{REASON}\n" in text
    assert "\nContact support" in text


def test_suspension_requires_name_reason_and_csrf_token(app: Flask, alice: User, olga: User) -> None:
    browser, page = open_console(app, olga), f"{organization_page(alice)}/suspend"
    wrong_name = browser.submit(page, name="Acne", reason=REASON)
    assert wrong_name.status_code == 422
    assert "The name doesn&#39;t match" in wrong_name.text
    short = browser.submit(page, name="Acme", reason="because")
    assert short.status_code == 422
    assert 'id="e-reason"' in short.text
    fields = browser.form(page)
    assert browser.send(page, {**fields, "csrf_token": "other", "name": "Acme", "reason": REASON}).status_code == 400
    assert audit_log(app, "organization.suspended") == []


def test_old_sign_in_is_asked_for_the_password(app: Flask, client: FlaskClient, alice: User) -> None:
    olga = sign_up(client, "olga@platform.example", "Platform")
    fresh = client.post("/api/v1/auth/refresh", json={"refresh_token": olga.refresh_token}).json["data"]
    browser, page = open_console(app, olga), f"{organization_page(alice)}/suspend"
    set_session_cookies(browser.client, fresh["token"], fresh["refresh_token"])
    response = browser.submit(page, name="Acme", reason=REASON)
    assert response.status_code == 422
    assert 'name="confirm_password"' in response.text
    assert REASON in response.text
    assert browser.submit(page, name="Acme", reason=REASON, confirm_password="wrong").status_code == 422
    assert browser.submit(page, name="Acme", reason=REASON, confirm_password=PASSWORD).status_code == 303


def test_support_cannot_submit_the_suspension_form(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    fields = browser.form(f"{organization_page(alice)}/suspend")
    support = open_console(app, olga, "support")
    response = support.send(f"{organization_page(alice)}/suspend", {**fields, "name": "Acme", "reason": REASON})
    assert response.status_code == 404
    assert execute_sql(app, "SELECT status FROM organizations WHERE name = 'Acme'") == [("active",)]


def test_suspend_and_resume_require_the_opposite_status(context: Flask, alice: User, olga: User) -> None:
    organization_id, actor = ids.parse_id("org", alice.organization_id), Actor("operator", None)
    with tenancy.system_session("operator.command") as session:
        with pytest.raises(NotSuspended):
            organizations.resume(session, organization_id, actor, REASON)
        with pytest.raises(ValidationFailed):
            organizations.suspend(session, organization_id, actor, "  short   ")
        with pytest.raises(OrganizationNotFound):
            organizations.suspend(session, ids.new_id(), actor, REASON)
        organizations.suspend(session, organization_id, actor, REASON)
        with pytest.raises(NotSuspendable):
            organizations.suspend(session, organization_id, actor, REASON)
        assert session.get_one(Organization, organization_id).status == "suspended"


def test_pages_take_at_most_fifteen_statements_and_the_record_of_the_read(
    app: Flask, client: FlaskClient, alice: User, bob: User, olga: User
) -> None:
    browser = open_console(app, olga)
    assert send_message(client, make_key(client, alice))[0] == 202
    counts = {}
    for path, role in paths(alice).items():
        if role == "support":
            with count_statements(app) as statements:
                assert browser.open(path).status_code == 200
            counts[path] = len([statement for statement in statements if "set_config('role'" not in statement])
    assert {path: count for path, count in counts.items() if count > 16} == {}


def test_list_shows_recurring_revenue_and_last_use_and_is_sorted(
    app: Flask, client: FlaskClient, alice: User, carol: User, olga: User
) -> None:
    browser = open_console(app, olga)
    for user, plan in ((alice, "starter"), (carol, "pro")):
        page = f"{organization_page(user)}/plan"
        assert browser.submit(f"{page}?plan={plan}&when=now", page, reason=REASON).status_code == 303
    send_message(client, make_key(client, alice))
    execute_sql(app, "UPDATE api_keys SET last_used_at = now()")
    orders = {
        "created": ["Platform", "Carol & Co", "Acme"],
        "mrr": ["Carol & Co", "Acme", "Platform"],
        "last-seen": ["Acme", "Platform", "Carol & Co"],
        "name": ["Acme", "Carol & Co", "Platform"],
    }
    assert {sort: search(browser, f"sort={sort}") for sort in orders} == orders
    text = browser.open(f"{LIST}?sort=mrr&limit=1").text
    assert ("$99.00" in text, "Never" in text) == (True, True)
    older = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "$29.00" in browser.open(older).text
    browser.submit(f"{organization_page(carol)}/suspend", name="Carol & Co", reason=REASON)
    assert search(browser, "sort=mrr")[0] == "Acme"  # a suspended organization pays no fee


def test_page_names_actors_and_links_keys(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    make_key(client, alice)
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(alice)}/suspend", name="Acme", reason=REASON)
    page = browser.open(organization_page(alice)).text
    activity = page.partition("Recent activity")[2]
    assert ("olga@platform.example" in activity, "alice@acme.example" in activity) == (True, True)
    assert 'href="/admin/keys/key_' in page
    assert "Accepted requests per day" in page


def test_tabs_count_the_rows_of_each_status_and_keep_other_filters(
    app: Flask, client: FlaskClient, alice: User, carol: User, olga: User
) -> None:
    browser = open_console(app, olga)
    browser.submit(f"{organization_page(carol)}/suspend", name="Carol & Co", reason=REASON)

    def tabs(path: str) -> list[tuple[str, str]]:
        text = browser.open(path).text.partition('aria-label="Status"')[2].partition("</nav>")[0]
        return re.findall(r'<a href="([^"]*)"[^>]*>[^<]*<span class="count">([^<]*)', text)

    found = dict(tabs(LIST))
    assert [found[f"{LIST}?status={status}"] for status in ("active", "suspended", "closed")] == ["2", "1", "0"]
    filtered = tabs(f"{LIST}?q=carol&status=suspended&cursor=")
    assert [count for _, count in filtered] == ["0", "1", "0"]
    assert all("q=carol" in href for href, _ in filtered)
    assert '<input type="hidden" name="status" value="suspended">' in browser.open(f"{LIST}?status=suspended").text
    for path in ("users", "invoices", "payments", "deliveries", "mail"):
        assert tabs(f"/admin/{path}"), path
    execute_sql(app, "UPDATE users SET disabled_at = now() WHERE email LIKE 'carol%'")
    assert dict(tabs("/admin/users"))["/admin/users?kind=disabled"] == "1"


def test_tabs_stop_counting_at_a_thousand(context: Flask) -> None:
    numbers = sa.select(sa.func.generate_series(1, 5000).label("n")).subquery()
    with console_context.read_session() as session:
        statement, conditions = sa.select(numbers.c.n), {"low": numbers.c.n <= 3, "all": numbers.c.n > 0}
        assert lists.count_each(session, statement, conditions) == {"low": 3, "all": 1001}
