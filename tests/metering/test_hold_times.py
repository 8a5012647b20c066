"""Holds belong to no billing period: closing loses none, and usage belongs to the time of the settlement."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.billing import invariants, organization_closing
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.metering import holds, key_principals
from saas_api.metering.models import Hold
from saas_api.usage import live_quantities, meters, open_holds, quotas
from saas_api.usage.ledger import MeteredUsage
from saas_api.usage.meters import InvalidQuantity, MissingProperty
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import MAY, close_periods

pytestmark = pytest.mark.usefixtures("context")
OWNER = Actor("user", "00000000-0000-7000-8000-000000000001")


def hold(acme: BillingOrganization, quantity: int = 5, meter: str = "sms", **properties: str) -> Hold:
    """A hold for a day that no limit concerns."""
    principal = key_principals.get_organization_principal(acme.id)
    usage = MeteredUsage(meter, Decimal(quantity), properties)
    return holds.create_hold(principal, "completions", usage, 86_400, call=None)


def settle(held: Hold, quantity: int, properties: Mapping[str, Any] | None = None) -> Hold:
    return holds.settle_hold("completions", held.id, Decimal(quantity), properties)


def usage(acme: BillingOrganization) -> list[tuple[datetime, Decimal, bool]]:
    """Start of the period that pays, quantity, and whether the usage is late."""
    rows = acme.rows("""SELECT p.starts_at, e.quantity, e.late_for_period_id IS NOT NULL AS is_late FROM usage_events e
      JOIN billing_periods p ON p.id = e.billing_period_id ORDER BY e.recorded_at""")
    return [tuple(row) for row in rows]


def violations() -> list[str]:
    return [violation.what for result in invariants.check_invariants() for violation in result.violations]


def test_hold_that_is_settled_in_the_next_period_is_usage_of_that_period() -> None:
    acme = create_organization()
    clock.freeze_time(day(30, 23))
    held = hold(acme)
    close_periods(acme, MAY)
    settle(held, 4)
    assert usage(acme) == [(day(1, month=5), 4, False)]
    assert violations() == []


def test_hold_of_a_closed_organization_is_settled() -> None:
    acme = create_organization(plan="starter@1")
    clock.freeze_time(day(15, 23))
    held, released = hold(acme), hold(acme)
    clock.freeze_time(day(16))
    organization_closing.close_organization(acme.id, OWNER)
    settle(held, 7)
    holds.release_hold("completions", released.id)
    assert [quantity for _, quantity, _ in usage(acme)] == [7]


def test_hold_of_an_archived_meter_is_settled() -> None:
    acme = create_organization()
    meters.publish_meter({"code": "tokens", "name": "Tokens", "unit": "token"}, SYSTEM_ACTOR)
    held = hold(acme, 5, "tokens")
    meters.archive_meter("tokens", SYSTEM_ACTOR)
    settle(held, 4)
    assert [quantity for _, quantity, _ in usage(acme)] == [4]


@pytest.mark.parametrize(
    ("meter", "properties", "recorded"),
    [
        ({"aggregation": "sum", "value_property": "tokens"}, {}, (6, {"model": "large", "tokens": "6"}, None)),
        ({"aggregation": "sum", "value_property": "tokens"}, {"tokens": 9}, (9, {"model": "large", "tokens": 9}, None)),
        ({"aggregation": "count"}, {}, (1, {"model": "large"}, None)),
        (
            {"aggregation": "unique", "unique_property": "user"},
            {"user": "u1"},
            (1, {"model": "large", "user": "u1"}, "u1"),
        ),
    ],
)
def test_settlement_counts_as_an_event_of_the_meter(
    meter: dict[str, str], properties: dict[str, Any], recorded: tuple[Any, ...]
) -> None:
    acme = create_organization()
    meters.publish_meter({"code": "tokens", "name": "Tokens", "unit": "token", **meter}, SYSTEM_ACTOR)
    held = hold(acme, 5, "tokens", model="large")
    assert settle(held, 6, properties).settled_quantity == recorded[0]
    [event] = acme.rows("SELECT quantity, properties, unique_value FROM usage_events")
    assert tuple(event) == recorded


def test_settlement_that_lacks_what_the_meter_counts_leaves_the_hold_open() -> None:
    acme = create_organization()
    document = {"code": "users", "name": "Users", "unit": "user", "aggregation": "unique", "unique_property": "user"}
    meters.publish_meter(document, SYSTEM_ACTOR)
    held = hold(acme, 1, "users")
    with pytest.raises(MissingProperty):
        settle(held, 1)
    with pytest.raises(InvalidQuantity):
        settle(held, 1, {"user": ""})
    assert holds.get_hold("completions", held.id).status == "open"


def test_hold_that_is_settled_between_two_reads_is_counted_once() -> None:
    acme = create_organization()
    held = hold(acme, 5)
    [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE starts_at <= now() ORDER BY seq LIMIT 1")
    with tenancy.snapshot_session(acme.id) as session:
        used = live_quantities.get_totals(session, acme.id, period_id)
        settle(held, 3)
        [still_held] = open_holds.list_held_quantities(session, acme.id)
    assert (dict(used), still_held.quantity) == ({}, 5)
    with tenancy.snapshot_session(acme.id) as session:
        assert quotas.count_towards_quotas(session, acme.id, period_id) == {"sms": 3}
