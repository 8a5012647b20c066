"""What operators look at and export is in the log of operators."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.admin.access_log import TARGET_TYPES
from saas_api.core import ids
from tests.support.accounts import User, make_key
from tests.support.console import REASON, execute_sql, open_console, organization_page

EXPORT = {"format": "csv", "reason": REASON}


def reads(app: Flask, action: str = "console.viewed") -> list[Any]:
    """Target, filters and reason of each recorded read, the oldest first."""
    sql = """SELECT target_type, target_id, data->'filters' AS filters, data->>'reason' AS reason FROM audit_events
      WHERE action = :action AND organization_id IS NULL AND actor_type = 'operator' ORDER BY id"""
    return [tuple(row) for row in execute_sql(app, sql, action=action)]


def test_pages_of_an_organization_and_a_user_are_recorded(app: Flask, alice: User, olga: User) -> None:
    """R5: what operators read and exported left no trace, and support exported every address."""
    browser = open_console(app, olga, "support")
    browser.read(organization_page(alice))
    browser.read(f"/admin/users/{alice.user_id}")
    organization_id, user_id = ids.parse_id("org", alice.organization_id), ids.parse_id("usr", alice.user_id)
    assert reads(app) == [("organization", str(organization_id), {}, None), ("user", str(user_id), {}, None)]
    assert "console.viewed" in browser.read("/admin/audit")


def test_search_is_recorded_with_what_was_looked_for(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga, "support")
    browser.read("/admin/users?q=alice&kind=")
    assert reads(app) == [("page", "admin.users.index", {"q": "alice"}, None)]


def test_api_key_that_was_searched_is_recorded_masked(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    key = make_key(client, alice)["X-API-Key"]
    open_console(app, olga).read(f"/admin/organizations?q={key}")
    [(_, _, filters, _)] = reads(app)
    assert key.startswith(filters["q"])
    assert len(filters["q"]) < len(key) / 2


@pytest.mark.parametrize("path", ["/admin", "/admin/users", "/admin/plans", "/admin/system"])
def test_pages_without_data_of_one_organization_are_not_recorded(app: Flask, olga: User, path: str) -> None:
    open_console(app, olga).read(path)
    assert reads(app) == []


def test_refused_page_is_not_recorded(app: Flask, olga: User) -> None:
    browser = open_console(app, olga)
    assert browser.open(f"/admin/users/{ids.format_id('usr', ids.new_id())}").status_code == 404
    assert reads(app) == []


@pytest.mark.parametrize(
    "path", ["users", "organizations", "invoices", "payments", "payments/events", "deliveries", "mail", "audit"]
)
def test_export_requires_the_role_admin_and_a_reason(app: Flask, olga: User, path: str) -> None:
    support = open_console(app, olga, "support")
    assert support.client.get(f"/admin/{path}", query_string=EXPORT).status_code == 404
    assert "Export CSV" not in support.read(f"/admin/{path}")
    admin = open_console(app, olga)
    assert "Export CSV" in admin.read(f"/admin/{path}")
    for reason in ("", "because", " " * 12):
        assert admin.client.get(f"/admin/{path}", query_string={**EXPORT, "reason": reason}).status_code == 422
    assert reads(app, "console.exported") == []
    assert admin.client.get(f"/admin/{path}", query_string=EXPORT).mimetype == "text/csv"
    [(target_type, _, filters, reason)] = reads(app, "console.exported")
    assert (target_type, filters, reason) == ("page", {}, REASON)


def test_every_page_of_the_console_names_what_it_shows(app: Flask) -> None:
    arguments = {
        argument
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("admin.") and "GET" in (rule.methods or ())
        for argument in rule.arguments
    }
    assert arguments - TARGET_TYPES.keys() == {
        "figure",
        "incident_id",
        "job",
        "job_id",
        "meter_code",
        "name",
        "provider",
        "version_id",
    }
