"""Counts of refused calls: added up in memory, written in one statement, by local hour."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.core import clock, tenancy
from saas_api.core.access import Principal
from saas_api.usage import service as usage
from tests.usage.company import sign_up

ROUTE = "/api/v1/messages/send"


@pytest.fixture
def caller(app: Flask, client: FlaskClient) -> Iterator[Principal]:
    """A live key of acme."""
    organization_id = sign_up(client).id
    with app.app_context():
        yield Principal("key", uuid.uuid4(), organization_id)


def counted(caller: Principal) -> list[tuple[Any, ...]]:
    """What stands in the table."""
    with tenancy.transaction(caller.organization_id) as session:
        rows = session.execute(text("SELECT bucket_at, outcome, requests FROM request_counts ORDER BY 1, 2"))
        return [tuple(row) for row in rows]


def test_refused_calls_add_up_over_several_writes(caller: Principal) -> None:
    clock.travel_to(datetime(2026, 4, 1, 10, 20, tzinfo=UTC))
    for outcome in ("failed", "failed", "rate_limited"):
        usage.count_refusal(caller, ROUTE, "POST", outcome)
    usage.write_refusals()
    usage.count_refusal(caller, ROUTE, "POST", "failed")
    usage.write_refusals()
    hour = datetime(2026, 4, 1, 10, tzinfo=UTC)
    assert counted(caller) == [(hour, "failed", 3), (hour, "rate_limited", 1)]


def test_an_hour_is_the_local_one_where_zones_stand_at_half_hours(caller: Principal) -> None:
    with tenancy.transaction(caller.organization_id) as session:
        session.execute(text("UPDATE organizations SET timezone = 'Asia/Kolkata'"))
    for minute in (20, 40):
        clock.travel_to(datetime(2026, 4, 1, 10, minute, tzinfo=UTC))
        usage.count_refusal(caller, ROUTE, "POST", "failed")
    usage.write_refusals()
    assert counted(caller) == [
        (datetime(2026, 4, 1, 9, 30, tzinfo=UTC), "failed", 1),
        (datetime(2026, 4, 1, 10, 30, tzinfo=UTC), "failed", 1),
    ]


def test_a_person_is_not_counted(caller: Principal) -> None:
    usage.count_refusal(Principal("user", uuid.uuid4(), caller.organization_id, "owner"), ROUTE, "POST", "failed")
    usage.write_refusals()
    assert counted(caller) == []


def test_what_cannot_be_written_is_kept_for_the_next_time(caller: Principal) -> None:
    usage.count_refusal(caller, ROUTE, "POST", "no such outcome")
    with pytest.raises(Exception, match="request_counts"):
        usage.write_refusals()
    assert sum(usage._refusals.values()) == 1
    usage._refusals.clear()


def test_counts_are_written_without_being_asked(caller: Principal) -> None:
    usage.count_refusal(caller, ROUTE, "POST", "failed")
    for _ in range(100):
        if counted(caller):
            return
        time.sleep(0.05)
    pytest.fail("nothing was written within five seconds")
