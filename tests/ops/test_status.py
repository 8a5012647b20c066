"""The status page: components now and on the last 90 days, and incidents with their feed."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.ops import jobs
from saas_api.ops import status as ops_status
from saas_api.status import history
from saas_api.status.components import Component, ComponentState
from saas_api.status.history import ComponentHistory, StatusDay
from tests.support.accounts import User
from tests.support.console import (
    IN_PLATFORM_LOG,
    Console,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    open_console,
)

LIST, REPORT = "/admin/incidents", "/admin/incidents/_report"
DELAYED = {
    "title": "Delayed <b>webhooks</b>",
    "components": ["webhooks"],
    "status": "investigating",
    "body": "Webhooks arrive late & nothing is lost.",
}
ATOM = "{http://www.w3.org/2005/Atom}"
NOON = datetime(2026, 4, 14, 12, tzinfo=UTC)


@pytest.fixture
def console(app: Flask, olga: User) -> Console:
    return open_console(app, olga)


@pytest.fixture
def noon() -> Iterator[None]:
    clock.freeze_time(NOON)
    yield
    clock.freeze_time(None)


def _parse(feed: str) -> ET.Element:
    return ET.fromstring(feed)  # noqa: S314 - our own


def record(app: Flask, states: dict[Component, ComponentState], day: date, minutes: int = 1) -> None:
    with app.app_context(), tenancy.system_session("ops.status") as session:
        for _ in range(minutes):
            history.record_minute(session, states, day)


def test_each_run_of_the_job_adds_a_minute_to_every_component(app: Flask, noon: None) -> None:
    with app.app_context():
        for _ in range(2):
            jobs.record_status()
        with tenancy.system_session("ops.status") as session:
            histories = history.list_histories(session, NOON.date())
    assert set(histories) == set(Component)
    for component, recorded in histories.items():
        assert len(recorded.days) == history.SHOWN_DAYS
        assert recorded.days[-1].measured_minutes == 2, component
        assert {day.measured_minutes for day in recorded.days[:-1]} == {0}


def test_time_without_the_job_is_time_without_scheduled_work(app: Flask, noon: None) -> None:
    ran_at = NOON - timedelta(hours=13)  # on the day before
    execute_sql(
        app,
        """INSERT INTO job_runs (job, scheduled_for, host, state, started_at, finished_at)
      VALUES ('ops.status', :at, 'one', 'done', :at, :at)""",
        at=ran_at,
    )
    with app.app_context():
        states = {part.component: part.state for part in ops_status.get_status()}  # the same for five seconds
        jobs.record_status()
        with tenancy.system_session("ops.status") as session:
            histories = history.list_histories(session, NOON.date())
    down = {component: [day.down_minutes for day in recorded.days[-2:]] for component, recorded in histories.items()}
    assert down.pop(Component.JOBS) == [59, 12 * 60 + (states[Component.JOBS] == ComponentState.DOWN)]
    assert set(map(tuple, down.values())) == {(0, 0)}


def test_days_before_the_shown_ones_are_deleted_by_the_nightly_job(app: Flask) -> None:
    today = datetime.now(UTC).date()
    for age in (0, 90, 92):
        record(app, {Component.API: ComponentState.OK}, today - timedelta(days=age))
    with app.app_context():
        assert jobs.delete_expired_rows()["status_days"] == 1


@pytest.mark.parametrize(
    ("minutes", "state"),
    [
        ((0, 0, 0), None),
        ((1440, 0, 0), "ok"),
        ((1436, 3, 1), "ok"),
        ((1435, 4, 1), "slow"),
        ((1400, 36, 4), "slow"),
        ((1435, 0, 5), "down"),
    ],
)
def test_day_has_its_worst_state_of_five_minutes(minutes: tuple[int, int, int], state: str | None) -> None:
    assert StatusDay(NOON.date(), *minutes).state == state


def test_uptime_is_never_rounded_up() -> None:
    days = [StatusDay(NOON.date(), 1440 * 90 - 1, 0, 1), StatusDay(NOON.date())]
    assert str(ComponentHistory(days).uptime) == "0.9999"
    assert ComponentHistory([StatusDay(NOON.date(), 10, 5, 0)]).uptime == 1
    assert ComponentHistory([StatusDay(NOON.date())]).uptime is None


def test_page_shows_components_by_their_names_and_their_days(app: Flask, client: FlaskClient, noon: None) -> None:
    yesterday = NOON.date() - timedelta(days=1)
    record(app, dict.fromkeys(Component, ComponentState.OK), yesterday, 15)
    record(app, {Component.WEBHOOKS: ComponentState.DOWN}, yesterday, 5)
    page = client.get("/status").text
    for name in ("API", "Message delivery", "Webhooks", "Billing and scheduled work"):
        assert f"<h3>{name}</h3>" in page
    assert "Redis" not in page
    assert 'aria-label="Webhooks: 75% available on the last 90 days"' in page
    assert "Apr 13, 2026: down, 5 minutes down</title>" in page
    assert "Apr 12, 2026: not measured</title>" in page
    assert 'aria-label="API: 100% available on the last 90 days"' in page


def test_operators_report_incidents_and_support_reads_them(app: Flask, client: FlaskClient, alice: User) -> None:
    check_operator_access(app, client, alice, {LIST: "support", REPORT: "admin"})


def test_incident_is_on_the_page_until_it_is_resolved_and_in_the_past_then(
    app: Flask, client: FlaskClient, console: Console
) -> None:
    assert "No incidents" in console.read(LIST)
    assert "Delayed &lt;b&gt;webhooks" in console.run_action(REPORT, **DELAYED)
    assert audit_log(app, "incident.reported") == IN_PLATFORM_LOG
    page = client.get("/status").text
    open_part, _, past_part = page.partition('id="incidents"')
    assert "Delayed &lt;b&gt;webhooks" in open_part
    assert "Investigating" in open_part
    assert "No past incidents." in past_part
    [link] = re.findall(rf"{LIST}/inc_[0-9a-f]+", console.open(LIST).text)
    assert "Resolved" in console.run_action(f"{link}/update", status="resolved", body="All were delivered.")
    assert audit_log(app, "incident.updated") == IN_PLATFORM_LOG
    open_part, _, past_part = client.get("/status").text.partition('id="incidents"')
    assert "Delayed" not in open_part
    assert past_part.index("All were delivered.") < past_part.index("arrive late &amp; nothing")


def test_feed_has_an_entry_for_each_incident(app: Flask, client: FlaskClient, console: Console) -> None:
    empty = client.get("/status.atom")
    assert (empty.status_code, empty.mimetype) == (200, "application/atom+xml")
    assert _parse(empty.text).findall(f"{ATOM}entry") == []
    console.run_action(REPORT, **DELAYED)
    console.run_action(REPORT, **{**DELAYED, "title": "Second"})
    feed = _parse(client.get("/status.atom").text)
    second, first = feed.findall(f"{ATOM}entry")
    assert [entry.findtext(f"{ATOM}title") for entry in (first, second)] == ["Delayed <b>webhooks</b>", "Second"]
    assert "Investigating: Webhooks arrive late & nothing is lost." in (first.findtext(f"{ATOM}content") or "")
    assert feed.findtext(f"{ATOM}updated") == second.findtext(f"{ATOM}updated")
    links = {entry.findtext(f"{ATOM}id") for entry in (first, second)}
    assert len(links) == 2
    assert all(link and link.startswith(f"{app.config['APP_URL']}/status#inc_") for link in links)


@pytest.mark.parametrize("wrong", [{"components": []}, {"components": ["redis"]}, {"status": "over"}, {"title": ""}])
def test_incident_that_is_not_complete_is_not_reported(
    client: FlaskClient, console: Console, wrong: dict[str, object]
) -> None:
    response = console.submit_action(REPORT, **{**DELAYED, **wrong})
    assert response.status_code == 422, error_summary(response)
    assert "Delayed" not in client.get("/status").text


def test_page_opens_without_its_database(config: dict[str, Any]) -> None:
    ops_status._cached_status.measured_at = -ops_status.STATUS_CACHE_SECONDS - 1.0
    away = create_app({**config, "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none"})
    page = away.test_client().get("/status")
    ops_status._cached_status.measured_at = -ops_status.STATUS_CACHE_SECONDS - 1.0
    assert page.status_code == 200
    assert "Some systems are down." in page.text
    assert "The history is unavailable at the moment." in page.text
    assert away.test_client().get("/status.atom").status_code == 503
