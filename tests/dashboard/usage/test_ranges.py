"""The usage page: ranges of days, modes, and texts of empty ranges."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, text

from saas_api.billing import service_terms
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.engine import db
from tests.support.accounts import User
from tests.support.pages import Browser
from tests.support.usage import UsageOrganization, sign_up_organization
from tests.support.usage_pages import TODAY, USAGE, browse, download_csv, open_usage, read_stats, read_table


def test_days_are_in_the_time_zone_of_the_organization(app: Flask, acme: UsageOrganization) -> None:
    with acme.transaction() as session:
        session.execute(text("UPDATE organizations SET timezone = 'Pacific/Auckland' WHERE id = :id"), {"id": acme.id})
    acme.use(1, at=datetime(2026, 4, 12, 13, tzinfo=UTC), key="first")
    page = open_usage(app, acme, "tab=day")
    assert "As of 12:30:20\N{NO-BREAK SPACE}AM (Pacific/Auckland)" in page
    assert ["Apr 13, 2026", "1"] in [row[:2] for row in read_table(page)]


def test_test_mode_calls_are_separate_and_free(app: Flask, acme: UsageOrganization) -> None:
    assert read_stats(open_usage(app, acme, "mode=test"))["Calls"] == "0"


def test_test_messages_are_counted_in_test_mode(app: Flask, client: FlaskClient, alice: User) -> None:
    browser = Browser(app, alice)
    body = {"type": "sms", "to": "+2348012345678", "message": "Hello"}
    key = client.post("/api/v1/keys", json={"name": "try", "mode": "test"}, headers=alice.headers).json["data"]["key"]
    for _ in range(3):
        sent = client.post("/api/v1/messages/send", json=body, headers={"X-API-Key": key})
        assert sent.status_code == 202
    page = browser.open(f"{USAGE}?mode=test").text
    assert read_stats(page)["Accepted"] == "3"
    assert "3 messages accepted" in page
    assert read_stats(browser.open(USAGE).text)["Accepted"] == "3"
    live = browser.open(f"{USAGE}?mode=live").text
    assert read_stats(live)["Accepted"] == "0"
    assert "Busiest minute" not in live


def test_rate_limit_is_that_of_the_gate(app: Flask, acme: UsageOrganization) -> None:
    with acme.transaction() as session:
        limit = service_terms.get_terms(session, acme.id).rate_limit_per_minute
    response = acme.client.get("/api/v1/usage", headers=acme.key_headers["first"])
    assert response.headers["X-RateLimit-Limit"] == str(limit)
    assert f"<dd>{limit} calls per minute</dd>" in open_usage(app, acme)


def test_rate_limit_override_is_shown_until_it_expires(app: Flask, acme: UsageOrganization) -> None:
    with app.app_context(), tenancy.system_session("auth.register") as session:
        session.execute(
            text("""INSERT INTO organization_limits (organization_id, rate_limit_per_minute, reason, expires_at)
              VALUES (:id, 777, 'a test', :at)"""),
            {"id": acme.id, "at": TODAY + timedelta(hours=1)},
        )
    assert "<dd>777 calls per minute</dd>" in open_usage(app, acme)
    clock.freeze_time(TODAY + timedelta(hours=1))
    assert "<dd>777 calls per minute</dd>" not in open_usage(app, acme)


def test_page_without_usage_links_to_the_first_call(app: Flask, alice: User) -> None:
    page = Browser(app, alice).open(USAGE).text
    assert "No live calls in this time" in page
    assert "YOUR_KEY" in page
    assert "/api/v1/messages/send" in page
    assert "No usage in this period" in page


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("range=year", "range"),
        ("start_date=yesterday", "start_date"),
        ("end_date=2026-02-30", "end_date"),
        ("start_date=2026-04-02&end_date=2026-04-01", "end_date"),
        ("start_date=2024-01-01&end_date=2026-04-01", "end_date"),
        ("start_date=0001-01-01&end_date=0001-02-01", "start_date"),
    ],
)
def test_invalid_value_is_reported_at_its_field(app: Flask, acme: UsageOrganization, query: str, field: str) -> None:
    page = open_usage(app, acme, query, status=422)
    assert f'href="#f-{field}"' in page
    assert 'name="start_date"' in page
    assert "stat-value" not in page


@pytest.mark.parametrize("query", ["tab=color", "mode=dead", "format=xml"])
def test_invalid_value_without_a_field_is_reported_above_the_form(
    app: Flask, acme: UsageOrganization, query: str
) -> None:
    name, _, value = query.partition("=")
    page = open_usage(app, acme, query, status=422)
    assert f"Unknown {name}: {value}" in page
    assert "#f-" not in page


def test_rejected_form_keeps_its_values(app: Flask, acme: UsageOrganization) -> None:
    page = open_usage(app, acme, "range=custom&start_date=2026-04-02&end_date=2026-04-01", status=422)
    assert 'value="2026-04-02"' in page
    assert '<option value="custom" selected>' in page


def test_dates_take_precedence_over_the_range(app: Flask, acme: UsageOrganization) -> None:
    """G5: the form showed "Last 30 days" and empty fields."""
    page = open_usage(app, acme, "range=30d&start_date=2026-04-02&end_date=2026-04-09")
    assert "<h2>Apr 2 \N{EN DASH} Apr 9, 2026</h2>" in page
    assert '<option value="custom" selected>' in page
    assert 'value="2026-04-02"' in page
    assert 'value="2026-04-09"' in page


def test_last_period_before_the_first_is_rejected(app: Flask, alice: User) -> None:
    response = Browser(app, alice).open(f"{USAGE}?range=last_period")
    assert response.status_code == 422
    assert "This billing period does not exist yet." in response.text


def test_first_calendar_year_is_accepted(app: Flask, acme: UsageOrganization) -> None:
    assert read_stats(open_usage(app, acme, "start_date=0002-01-01&end_date=0002-12-31"))["Calls"] == "0"


def test_tabs_keep_the_range_and_the_mode(app: Flask, acme: UsageOrganization) -> None:
    page = open_usage(app, acme, "range=7d&mode=test")
    for tab in ("endpoint", "key", "day", "meter"):
        assert f'href="{USAGE}?range=7d&amp;mode=test&amp;tab={tab}"' in page


def test_organization_sees_only_its_usage(app: Flask, acme: UsageOrganization, client: FlaskClient) -> None:
    carol = sign_up_organization(client, "Carol & Co", "carol@carol.example", at=TODAY)
    page = open_usage(app, carol)
    assert read_stats(page)["Calls"] == "0"
    assert "No calls to list." in open_usage(app, carol, "tab=key")
    assert [row[0] for row in read_table(open_usage(app, acme, "tab=key"))] == ["first", "second"]


def test_key_names_are_escaped(app: Flask, acme: UsageOrganization) -> None:
    acme.make_key("=<b>1")
    acme.use(1, key="=<b>1")
    assert "<b>1" not in open_usage(app, acme, "tab=key")
    assert "'=<b>1" in [row["name"] for row in download_csv(app, acme, "tab=key")]


def test_page_takes_few_statements(app: Flask, acme: UsageOrganization) -> None:
    browser = browse(app, acme)
    browser.open(USAGE)
    queries: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        queries.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        browser.open(USAGE)
        few = len(queries)
        for day in range(1, 15):
            acme.use(1, at=datetime(2026, 4, day, 12, tzinfo=UTC), key="first")
        queries.clear()
        browser.open(USAGE)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(queries) == few <= 23, "\n\n".join(queries)
