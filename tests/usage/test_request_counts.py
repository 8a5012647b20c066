"""Counts of calls and the log of requests: kept in memory, written together, summed by local hour after a day."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from saas_api.core import clock, request_context
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.periodic_thread import PeriodicThread
from saas_api.ops import jobs
from saas_api.usage import request_counts, request_log, request_recorder
from saas_api.usage.ranges import DateRange
from saas_api.usage.request_counts import RequestStatistics
from saas_api.usage.request_recorder import MAX_LOGGED, RequestDetails
from tests.support.usage import sign_up_organization

ROUTE = "/api/v1/messages/send"
AT = datetime(2026, 4, 1, 10, 20, tzinfo=UTC)


@pytest.fixture
def caller(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Principal]:
    """A live API key of acme; only tests flush."""
    monkeypatch.setattr(PeriodicThread, "_call_logged", lambda _thread, _app: None)
    organization_id = sign_up_organization(client).id
    with app.app_context():
        yield Principal("key", uuid.uuid4(), organization_id)
    request_recorder._counts.clear()
    request_recorder._requests.clear()


def refuse_connection(*_arguments: object) -> None:
    raise OperationalError("INSERT", {}, Exception("connection refused"))


def rows(caller: Principal, sql: str) -> list[tuple[Any, ...]]:
    with tenancy.tenant_session(caller.organization_id) as session:
        return [tuple(row) for row in session.execute(text(sql))]


def stored_counts(caller: Principal) -> list[tuple[Any, ...]]:
    return rows(caller, "SELECT bucket_at, status, requests, latency FROM request_counts ORDER BY 1, 2")


def record(caller: Principal, status: int, *, times: int = 1, microseconds: int | None = None, **details: Any) -> None:
    for _ in range(times):
        request_recorder.record(caller, "POST", ROUTE, status, microseconds, lambda: RequestDetails(**details))


def test_calls_of_a_minute_add_up_over_several_flushes_with_their_latency(caller: Principal) -> None:
    clock.freeze_time(AT)
    record(caller, 202, times=2, microseconds=900)
    record(caller, 202, microseconds=3000)
    record(caller, 429)
    request_recorder.flush()
    record(caller, 202, microseconds=5000)
    request_recorder.flush()
    assert stored_counts(caller) == [(AT, 202, 4, [2, 0, 1, 1]), (AT, 429, 1, [])]


def test_longest_latency_has_the_last_bucket() -> None:
    buckets = [request_counts.latency_bucket(us) for us in (0, 999, 1000, 2000, 32_768_000, 10**10)]
    assert buckets == [0, 0, 1, 2, 16, 16]


def test_minutes_of_more_than_a_day_ago_are_summed_into_local_hours(caller: Principal) -> None:
    with tenancy.tenant_session(caller.organization_id) as session:
        session.execute(text("UPDATE organizations SET timezone = 'Asia/Kolkata'"))
    hour = timedelta(hours=1)
    for at in (AT, AT + timedelta(minutes=5), AT + timedelta(minutes=20), AT + 20 * hour):
        clock.freeze_time(at)
        record(caller, 422, microseconds=3000)
        request_recorder.flush()
    clock.freeze_time(AT + 26 * hour)
    assert request_counts.sum_minutes() == 1
    clock.freeze_time(AT + 27 * hour)
    assert request_counts.sum_minutes() == 0
    latency = [0] * request_counts.LATENCY_BUCKETS
    assert stored_counts(caller) == [
        (datetime(2026, 4, 1, 9, 30, tzinfo=UTC), 422, 2, [*latency[:2], 2, *latency[3:]]),
        (datetime(2026, 4, 1, 10, 30, tzinfo=UTC), 422, 1, [*latency[:2], 1, *latency[3:]]),
        (AT + 20 * hour, 422, 1, [0, 0, 1]),
    ]
    clock.freeze_time(AT)
    record(caller, 422)  # of a process that could not write for a day
    request_recorder.flush()
    clock.freeze_time(AT + 27 * hour)
    request_counts.sum_minutes()
    assert [count[2] for count in stored_counts(caller)] == [3, 1, 1]


def test_only_refusals_of_a_key_are_refused_calls(caller: Principal) -> None:
    clock.freeze_time(AT)
    for status in (202, 422, 422, 429, 500):
        record(caller, status)
    request_recorder.flush()
    days = DateRange(date(2026, 4, 1), date(2026, 4, 1), ZoneInfo("UTC"))
    with tenancy.tenant_session(caller.organization_id) as session:
        refused = request_counts.refused_calls(session, caller.organization_id, days, "live")
        counts = request_counts.count_refused(session, caller.organization_id, days.starts_at, days.ends_at)
    assert [(calls.outcome, calls.requests) for calls in refused] == [("failed", 2), ("rate_limited", 1)]
    assert counts == {caller.id: 3}


def test_statistics_have_errors_and_latency_of_minutes_and_hours_alike(caller: Principal) -> None:
    hour, other = timedelta(hours=1), Principal("key", uuid.uuid4(), caller.organization_id)
    for at, status, key in ((AT, 202, caller), (AT, 500, caller), (AT + hour, 429, caller), (AT + hour, 200, other)):
        clock.freeze_time(at)
        record(key, status, microseconds=3000)
        request_recorder.flush()

    def read(**options: Any) -> list[RequestStatistics]:
        with tenancy.tenant_session(caller.organization_id) as session:
            starts = [AT.replace(minute=0), AT.replace(minute=0) + hour]
            return request_counts.call_statistics(
                session, caller.organization_id, "live", starts, starts[1] + hour, **options
            )

    expected = [(2, 1, 2), (2, 1, 2)]
    for _ in range(2):
        assert [(point.requests, point.errors, point.latency[2]) for point in read()] == expected
        clock.freeze_time(AT + 30 * hour)
        request_counts.sum_minutes()
    assert [point.requests for point in read(api_key_id=caller.id)] == [2, 1]
    total = request_counts.sum_statistics(read())
    assert (total.requests, total.error_share) == (4, Decimal("0.5"))


def test_percentiles_lie_within_their_bucket() -> None:
    calls = RequestStatistics(100, 0, (0, 0, 50, 40, 10, *[0] * 12))
    assert [calls.percentile_ms(percent) for percent in (25, 50, 90, 95, 100)] == [3, 4, 8, 12, 16]
    assert RequestStatistics(3, 3).percentile_ms(50) is None
    assert RequestStatistics().error_share is None


def test_request_of_a_user_is_logged_and_not_counted(caller: Principal) -> None:
    user = Principal("user", uuid.uuid4(), caller.organization_id, "owner")
    record(user, 404)
    request_recorder.flush()
    assert stored_counts(caller) == []
    assert rows(caller, "SELECT api_key_id, user_id, status FROM request_log") == [(None, user.id, 404)]


def test_log_has_every_error_and_the_first_success_of_each_minute(
    caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_recorder, "SAMPLED_ONE_IN", 10**9)
    for minute in (0, 1):
        clock.freeze_time(AT + timedelta(minutes=minute))
        record(caller, 202, times=3)
        record(caller, 404, times=2)
    request_recorder.flush()
    assert [status for (status,) in rows(caller, "SELECT status FROM request_log ORDER BY 1")] == [202, 202, *[404] * 4]


def test_log_samples_further_successes(caller: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_recorder, "SAMPLED_ONE_IN", 1)
    record(caller, 202, times=3)
    request_recorder.flush()
    assert rows(caller, "SELECT count(*) FROM request_log") == [(3,)]


def test_flood_of_errors_is_counted_and_not_all_logged(caller: Principal) -> None:
    other = Principal("key", uuid.uuid4(), caller.organization_id)
    clock.freeze_time(AT)
    record(caller, 429, times=MAX_LOGGED + 10)
    record(other, 404)
    request_recorder.flush()
    record(caller, 429)
    request_recorder.flush()
    assert rows(caller, "SELECT count(*) FROM request_log") == [(MAX_LOGGED + 1,)]
    assert rows(caller, "SELECT sum(requests)::int FROM request_counts") == [(MAX_LOGGED + 12,)]


def test_log_keeps_what_a_client_saw(caller: Principal) -> None:
    clock.freeze_time(AT)
    request_context.begin_request("client:my-request-1", "203.0.113.9")
    record(
        caller, 404, microseconds=12_340, path="/api/v1/messages/\0\ud800", error_code="NOT_FOUND", error_message="No."
    )
    request_context.clear_context()
    request_recorder.flush()
    columns = "at, request_id, ip, path, error_code, error_message, latency_ms, api_key_id"
    assert rows(caller, f"SELECT {columns} FROM request_log") == [
        (AT, "my-request-1", "203.0.113.9", "/api/v1/messages/�?", "NOT_FOUND", "No.", 12, caller.id)
    ]


def test_request_that_cannot_be_stored_does_not_hold_up_the_counts(caller: Principal) -> None:
    record(caller, 404, ip="\0")
    with pytest.raises(ValueError, match="NUL"):
        request_recorder.flush()
    assert rows(caller, "SELECT count(*) FROM request_counts") == [(0,)]
    request_recorder.flush()
    assert rows(caller, "SELECT requests FROM request_counts") == [(1,)]
    assert rows(caller, "SELECT count(*) FROM request_log") == [(0,)]


def test_counts_and_requests_wait_for_a_database_that_does_not_respond(
    caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(caller, 404)
    with monkeypatch.context() as patch:
        patch.setattr(request_log, "write_requests", refuse_connection)
        with pytest.raises(OperationalError):
            request_recorder.flush()
    record(caller, 404)
    request_recorder.flush()
    assert rows(caller, "SELECT sum(requests)::int FROM request_counts") == [(2,)]
    assert rows(caller, "SELECT count(*) FROM request_log") == [(2,)]


def test_counts_are_flushed_in_the_background(caller: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    record(caller, 404)
    for _ in range(100):
        if stored_counts(caller):
            return
        time.sleep(0.05)
    pytest.fail("nothing was written within five seconds")


def test_requests_older_than_thirty_days_are_deleted(caller: Principal) -> None:
    for days in (29, 31):
        clock.freeze_time(datetime.now(UTC) - timedelta(days=days))
        record(caller, 404)
    request_recorder.flush()
    assert jobs.delete_expired_rows()["request_log"] == 1
    assert rows(caller, "SELECT count(*) FROM request_log") == [(1,)]
    assert len(stored_counts(caller)) == 2
