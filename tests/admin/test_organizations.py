"""Organizations at the console: who finds them, and what suspending one does at once."""

import csv
import io

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Organization
from saas_api.accounts.organizations import NotSuspendable, NotSuspended, OrganizationNotFound
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import PASSWORD, Person, make_key, sign_up
from tests.support.console_audit import REASON, acts, desk, one, rows, send
from tests.support.pages import ANONYMOUS, Browser
from tests.support.webhook_pages import counted

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
    "GET /admin/organizations/{acme}/view-as": "admin",
    "GET /admin/users": "support",
    "GET /admin/users/{alice}": "support",
    "GET /admin/users/{alice}/end-sessions": "admin",
    "GET /admin/users/{alice}/reset-mail": "support",
    "GET /admin/plans": "support",
    "GET /admin/plans/pro@1": "support",
    "GET /admin/plans/pro@1/retire": "admin",
    "GET /admin/audit": "support",
}


def paths(alice: Person) -> dict[str, str]:
    return {
        name.removeprefix("GET ").format(acme=alice.organization_id, alice=alice.user_id): office
        for name, office in PAGES.items()
    }


def found(browser: Browser, query: str) -> list[str]:
    """Names in the list as a file."""
    answer = browser.open(f"{LIST}?format=csv&{query}")
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff")))]


def test_the_console_is_there_for_operators_only(app: Flask, alice: Person, olga: Person) -> None:
    nobody, tenant = Browser(app), Browser(app, alice)
    support = desk(app, olga, "support")
    wrong = []
    for path, office in paths(alice).items():
        got = (nobody.open(path).status_code, tenant.open(path).status_code, support.open(path).status_code)
        if got != (303, 404, 200 if office == "support" else 404):
            wrong.append((ANONYMOUS, path, got))
    assert not wrong
    admin = desk(app, olga)
    assert {path: admin.open(path).status_code for path in paths(alice)} == dict.fromkeys(paths(alice), 200)


def test_an_unknown_organization_and_one_that_is_no_id_are_not_found(app: Flask, olga: Person) -> None:
    browser = desk(app, olga)
    assert browser.open(f"{LIST}/{ids.format_id('org', ids.new_id())}").status_code == 404
    assert browser.open(f"{LIST}/acme").status_code == 404


@pytest.mark.parametrize("words", ["acm", "ACME", "alice@acme", "{acme}", "{hint}"])
def test_an_organization_is_found_by_what_somebody_knows(
    app: Flask, client: FlaskClient, alice: Person, carol: Person, olga: Person, words: str
) -> None:
    key = make_key(client, alice)["X-API-Key"]
    hint = key[: key.rindex("_") + 5]
    assert found(desk(app, olga), f"q={words.format(acme=alice.organization_id, hint=hint)}") == ["Acme"]


def test_filters_leave_the_others_out(app: Flask, alice: Person, carol: Person, olga: Person) -> None:
    browser = desk(app, olga)
    browser.submit(f"{one(carol)}/suspend", name="Carol & Co", reason=REASON)
    assert found(browser, "status=suspended") == ["Carol & Co"]
    assert found(browser, "status=active&q=acme") == ["Acme"]
    assert found(browser, "q=100%25") == []


def test_a_filter_that_is_none_shows_the_form_again(app: Flask, olga: Person) -> None:
    answer = desk(app, olga).open(f"{LIST}?status=asleep&q=acme")
    assert answer.status_code == 422
    assert 'value="acme"' in answer.text


def test_the_list_goes_on_where_a_page_ends(app: Flask, client: FlaskClient, olga: Person) -> None:
    for number in range(3):
        sign_up(client, f"boss@company{number}.example", f"Company {number}")
    browser = desk(app, olga)
    first = browser.open(f"{LIST}?q=Company&limit=2")
    assert "Company 2" in first.text
    assert "Company 0" not in first.text
    following = first.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    second = browser.open(following)
    assert "Company 0" in second.text
    assert "Company 2" not in second.text


def test_a_name_is_shown_as_text(app: Flask, client: FlaskClient, olga: Person) -> None:
    mallory = sign_up(client, "mallory@evil.example", "<script>alert(1)</script>")
    browser = desk(app, olga)
    for path in (f"{LIST}?q=script", one(mallory), f"{one(mallory)}/suspend"):
        assert "<script>alert" not in browser.open(path).text


def test_the_page_of_one_shows_members_keys_and_acts(
    app: Flask, client: FlaskClient, alice: Person, bob: Person, olga: Person
) -> None:
    headers = make_key(client, alice, name="Production")
    key = headers["X-API-Key"]
    assert send(client, headers) == (202, "")
    text = desk(app, olga).open(one(alice)).text
    for shown in ("alice@acme.example", "bob@acme.example", "Production", key[-4:], "api_key.created", "free@1"):
        assert shown in text, shown
    assert key not in text


def test_suspending_refuses_the_keys_on_the_next_request_and_resuming_lets_them_pass(
    app: Flask, client: FlaskClient, alice: Person, olga: Person
) -> None:
    key, browser = make_key(client, alice), desk(app, olga)
    assert send(client, key) == (202, "")
    answer = browser.submit(f"{one(alice)}/suspend", name="Acme", reason=REASON)
    assert (answer.status_code, answer.location) == (303, one(alice))
    assert send(client, key) == (403, "ORGANIZATION_SUSPENDED")
    assert "Suspended by an operator" in browser.open(one(alice)).text
    assert browser.submit(f"{one(alice)}/resume", reason=REASON).status_code == 303
    assert send(client, key) == (202, "")
    expected = [("Acme", "operator", REASON), ("platform", "operator", REASON)]
    assert sorted(acts(app, "organization.suspended")) == expected
    assert sorted(acts(app, "organization.resumed")) == expected
    told = "SELECT template, recipient FROM mails WHERE template LIKE '%operator' ORDER BY created_at"
    assert rows(app, told) == [
        ("stopped_by_operator", "alice@acme.example"),
        ("resumed_by_operator", "alice@acme.example"),
    ]


def test_suspending_takes_the_name_a_reason_and_a_fresh_password(app: Flask, alice: Person, olga: Person) -> None:
    browser, page = desk(app, olga), f"{one(alice)}/suspend"
    wrong_name = browser.submit(page, name="Acne", reason=REASON)
    assert wrong_name.status_code == 422
    assert "Type the name as it is" in wrong_name.text
    short = browser.submit(page, name="Acme", reason="because")
    assert short.status_code == 422
    assert 'id="e-reason"' in short.text
    fields = browser.form(page)
    assert browser.send(page, {**fields, "csrf_token": "other", "name": "Acme", "reason": REASON}).status_code == 400
    assert acts(app, "organization.suspended") == []


def test_an_old_sign_in_is_asked_for_the_password_again(app: Flask, client: FlaskClient, alice: Person) -> None:
    olga = sign_up(client, "olga@platform.example", "Platform")
    fresh = client.post("/api/v1/auth/refresh", json={"refresh_token": olga.refresh_token}).json["data"]
    browser, page = desk(app, olga), f"{one(alice)}/suspend"
    browser.client.set_cookie("at", fresh["token"])
    browser.client.set_cookie("rt", fresh["refresh_token"])
    asked = browser.submit(page, name="Acme", reason=REASON)
    assert asked.status_code == 422
    assert 'name="confirm_password"' in asked.text
    assert REASON in asked.text
    assert browser.submit(page, name="Acme", reason=REASON, confirm_password="wrong").status_code == 422
    assert browser.submit(page, name="Acme", reason=REASON, confirm_password=PASSWORD).status_code == 303


def test_support_cannot_suspend_by_sending_the_form_either(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga)
    fields = browser.form(f"{one(alice)}/suspend")
    support = desk(app, olga, "support")
    answer = support.send(f"{one(alice)}/suspend", {**fields, "name": "Acme", "reason": REASON})
    assert answer.status_code == 404
    assert rows(app, "SELECT status FROM organizations WHERE name = 'Acme'") == [("active",)]


def test_what_is_suspended_is_not_suspended_twice_and_what_is_active_not_resumed(
    context: Flask, alice: Person, olga: Person
) -> None:
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


def test_every_page_takes_at_most_twelve_statements(
    app: Flask, client: FlaskClient, alice: Person, bob: Person, olga: Person
) -> None:
    browser = desk(app, olga)
    assert send(client, make_key(client, alice))[0] == 202
    many = {}
    for path, office in paths(alice).items():
        if office == "support":
            with counted(app) as seen:
                assert browser.open(path).status_code == 200
            many[path] = len([statement for statement in seen if "set_config('role'" not in statement])
    assert {path: count for path, count in many.items() if count > 12} == {}
