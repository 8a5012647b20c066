"""Usage of parallel calls, recorded in shared transactions: each call has the result that it would have alone."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import clock, ids
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.ids import NIL_UUID
from saas_api.metering import recording
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.recording import UsageRecordedBefore
from saas_api.usage.ledger import UsageRecord
from tests.support import database_pool
from tests.support.billing import create_organization


@pytest.fixture
def one_connection(context: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with database_pool.single_connection(context, monkeypatch):
        yield


def principal(name: str, mode: str = KeyMode.LIVE) -> KeyPrincipal:
    return KeyPrincipal("service", NIL_UUID, create_organization(name, clock.now()).id, mode=mode)


def usage(key: str) -> UsageRecord:
    return UsageRecord(ids.new_id(), "lookups", key, "sms", 1, clock.now())


def recorded(organization_id: UUID, table: str = "usage_events") -> list[str]:
    with tenancy.tenant_session(organization_id) as session:
        return sorted(session.scalars(sa.text(f"SELECT idempotency_key FROM {table}")))


def record_in_a_group(app: Flask, *usages: tuple[KeyPrincipal, UsageRecord]) -> list[type[Any]]:
    """Record usage in one transaction; the types of what was raised."""
    calls = [partial(recording.record, owner, None, event) for owner, event in usages]
    return [type(error) for error in database_pool.call_in_a_group(app, calls)]


def test_repeated_usage_is_reported_to_its_call_alone(context: Flask, one_connection: None) -> None:
    acme, globex = principal("Acme"), principal("Globex")
    recording.record(acme, None, usage("1"))
    raised = record_in_a_group(context, (acme, usage("2")), (acme, usage("1")), (globex, usage("1")))
    assert raised == [type(None), UsageRecordedBefore, type(None)]
    assert (recorded(acme.organization_id), recorded(globex.organization_id)) == (["1", "2"], ["1"])


def test_usage_that_was_committed_before_its_connection_broke_counts_once(context: Flask, one_connection: None) -> None:
    acme, event = principal("Acme"), usage("1")
    recording.record(acme, None, event)  # the answer to this was lost, so it is sent again
    assert record_in_a_group(context, (acme, event), (acme, usage("2"))) == [type(None)] * 2
    assert recorded(acme.organization_id) == ["1", "2"]


def test_organization_without_an_open_period_gets_one_and_holds_up_no_other(
    context: Flask, one_connection: None
) -> None:
    acme = principal("Acme")
    clock.freeze_time(clock.now() + timedelta(days=70))
    globex, testing = principal("Globex"), principal("Initech", KeyMode.TEST)
    usages = [(acme, usage("1")), (globex, usage("1")), (testing, usage("1"))]
    assert record_in_a_group(context, *usages) == [type(None)] * 3
    assert recorded(acme.organization_id) == recorded(globex.organization_id) == ["1"]
    assert recorded(testing.organization_id, "test_usage_events") == ["1"]
