"""Counts of services' calls: nothing counted twice, nothing lost by a database that fails for a while."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy.exc import DBAPIError

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.services import service_calls, services
from tests.support.services import PURPOSE, create_service


@pytest.fixture
def service_id(app: Flask) -> Iterator[UUID]:
    """A service whose calls are written by the test alone."""
    create_service(app)
    with app.app_context():
        with tenancy.system_session(PURPOSE) as session:
            found = services.get_service(session, "lookups").id
        yield found
        service_calls.flush_calls()


def read(service_id: UUID, period: timedelta) -> list[tuple[str, str, int, float, float]]:
    with tenancy.system_session(PURPOSE) as session:
        calls = service_calls.read_calls(session, service_id, period)
    return [(row.operation, row.code, row.calls, row.mean_ms, row.max_ms) for row in calls]


def test_calls_are_counted_by_operation_and_code(service_id: UUID) -> None:
    for seconds in (0.001, 0.003):
        service_calls.count_call(service_id, "verify", "VALID", seconds)
    service_calls.flush_calls()
    service_calls.count_call(service_id, "verify", "VALID", 0.002)
    service_calls.count_call(service_id, "verify", "RATE_LIMITED", 0.004)
    service_calls.count_call(service_id, "events", "VALID", 0.5)
    service_calls.flush_calls()
    service_calls.flush_calls()
    assert read(service_id, timedelta(days=1)) == [
        ("events", "VALID", 1, 500, 500),
        ("verify", "VALID", 3, 2, 3),
        ("verify", "RATE_LIMITED", 1, 4, 4),
    ]


def test_calls_of_a_period_are_those_of_its_hours(service_id: UUID) -> None:
    now = clock.now()
    for days in (31, 29, 2, 0):
        clock.freeze_time(now - timedelta(days=days))
        service_calls.count_call(service_id, "verify", "VALID", 0.001)
    service_calls.flush_calls()
    assert [read(service_id, timedelta(days=days))[0][2] for days in (1, 30, 40)] == [1, 3, 4]


def test_service_was_last_seen_at_its_last_call(service_id: UUID) -> None:
    now = clock.now()
    for seconds in (5, 0, 9):
        clock.freeze_time(now - timedelta(seconds=seconds))
        service_calls.count_call(service_id, "verify", "VALID", 0.001)
        service_calls.flush_calls()
    with tenancy.system_session(PURPOSE) as session:
        assert services.get_service(session, "lookups").last_seen_at == now


def test_calls_that_cannot_be_written_are_written_later(service_id: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    service_calls.count_call(service_id, "verify", "VALID", 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(service_calls, "_UPSERT", service_calls.sa.text("SELECT 1/0"))
        with pytest.raises(DBAPIError):
            service_calls.flush_calls()
    service_calls.count_call(service_id, "verify", "VALID", 0.001)
    service_calls.flush_calls()
    assert read(service_id, timedelta(days=1))[0][2] == 2
