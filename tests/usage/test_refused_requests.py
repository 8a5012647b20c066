"""Counts of refused calls: summed in memory, written in one statement, by local hour."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.usage import refused_requests
from tests.support.usage import sign_up_organization

ROUTE = "/api/v1/messages/send"


@pytest.fixture
def caller(app: Flask, client: FlaskClient) -> Iterator[Principal]:
    """A live API key of acme."""
    organization_id = sign_up_organization(client).id
    with app.app_context():
        yield Principal("key", uuid.uuid4(), organization_id)


def stored_counts(caller: Principal) -> list[tuple[Any, ...]]:
    """Rows of the table."""
    with tenancy.tenant_session(caller.organization_id) as session:
        rows = session.execute(text("SELECT bucket_at, outcome, requests FROM request_counts ORDER BY 1, 2"))
        return [tuple(row) for row in rows]


def test_refused_calls_add_up_over_several_flushes(caller: Principal) -> None:
    clock.freeze_time(datetime(2026, 4, 1, 10, 20, tzinfo=UTC))
    for outcome in ("failed", "failed", "rate_limited"):
        refused_requests.count_refused(caller, ROUTE, "POST", outcome)
    refused_requests.flush_refused()
    refused_requests.count_refused(caller, ROUTE, "POST", "failed")
    refused_requests.flush_refused()
    hour = datetime(2026, 4, 1, 10, tzinfo=UTC)
    assert stored_counts(caller) == [(hour, "failed", 3), (hour, "rate_limited", 1)]


def test_hours_are_local_in_time_zones_at_half_hours(caller: Principal) -> None:
    with tenancy.tenant_session(caller.organization_id) as session:
        session.execute(text("UPDATE organizations SET timezone = 'Asia/Kolkata'"))
    for minute in (20, 40):
        clock.freeze_time(datetime(2026, 4, 1, 10, minute, tzinfo=UTC))
        refused_requests.count_refused(caller, ROUTE, "POST", "failed")
    refused_requests.flush_refused()
    assert stored_counts(caller) == [
        (datetime(2026, 4, 1, 9, 30, tzinfo=UTC), "failed", 1),
        (datetime(2026, 4, 1, 10, 30, tzinfo=UTC), "failed", 1),
    ]


def test_refused_call_of_a_user_is_not_counted(caller: Principal) -> None:
    refused_requests.count_refused(
        Principal("user", uuid.uuid4(), caller.organization_id, "owner"), ROUTE, "POST", "failed"
    )
    refused_requests.flush_refused()
    assert stored_counts(caller) == []


def test_counts_that_cannot_be_written_stay_pending(caller: Principal) -> None:
    refused_requests.count_refused(caller, ROUTE, "POST", "no such outcome")
    with pytest.raises(Exception, match="request_counts"):
        refused_requests.flush_refused()
    assert sum(refused_requests._pending.values()) == 1
    refused_requests._pending.clear()


def test_counts_are_flushed_in_the_background(caller: Principal) -> None:
    refused_requests.count_refused(caller, ROUTE, "POST", "failed")
    for _ in range(100):
        if stored_counts(caller):
            return
        time.sleep(0.05)
    pytest.fail("nothing was written within five seconds")
