"""Quotas and spend caps of any meter: fractions, prices by dimension, open holds, and meters that do not add up."""

import uuid
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from sqlalchemy import text

from saas_api.billing import alerts, current_period, service_terms, spend_cap, subscriptions
from saas_api.billing.models import BillingPeriod, BillingProfile
from saas_api.core import clock, ids
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.limits import limiter
from saas_api.core.limits.counters import MAX_COUNTER_VALUE
from saas_api.core.limits.limiter import LimitCode
from saas_api.metering import limits
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.usage.ledger import MeteredUsage
from tests.support.billing import BillingOrganization, create_organization, day, publish_meter, publish_prices

pytestmark = pytest.mark.usefixtures("context")
SMALL, LARGE = ({"model": "per_unit", "unit_price": price} for price in ("0.001", "1.00"))
TOKENS = {"by": {"dimension": "model", "values": {"large": LARGE}, "default": SMALL}}
PEAK = {"model": "per_unit", "unit_price": "1.00"}


@pytest.fixture
def acme() -> BillingOrganization:
    """An organization whose plan prices tokens by their model, and the highest peak."""
    publish_meter("tokens", dimensions=["model"])
    publish_meter("peak", "max")
    publish_meter("maps")
    return create_organization(plan=publish_prices("ai", {"tokens": TOKENS, "peak": PEAK}), at=day(10))


def tokens(quantity: str, **properties: str) -> MeteredUsage:
    return MeteredUsage("tokens", Decimal(quantity), properties)


def set_limits(
    organization: BillingOrganization, cap_minor: int | None = None, quotas: Mapping[str, str] | None = None
) -> None:
    with tenancy.system_session("billing.account") as session:
        values = {"id": organization.id, "cap": cap_minor, "quotas": str(dict(quotas or {})).replace("'", '"')}
        session.execute(text("UPDATE billing_profiles SET spend_cap_minor = :cap WHERE organization_id = :id"), values)
        session.execute(
            text("""INSERT INTO organization_limits (organization_id, rate_limit_per_minute, ceilings, reason)
              VALUES (:id, 1000, CAST(:quotas AS jsonb), 'test')"""),
            values,
        )


def principal_of(organization: BillingOrganization) -> KeyPrincipal:
    with organization.transaction() as session:
        terms = service_terms.get_terms(session, organization.id)
    return KeyPrincipal("key", uuid.uuid4(), organization.id, mode=KeyMode.LIVE, terms=terms, windows=[(1_000, 60_000)])


def call(organization: BillingOrganization, *usage: MeteredUsage) -> str | dict[str, Any]:
    """Decide on a call: "ok", or the code of the refusal with its details."""
    principal = principal_of(organization)
    request = limits.build_limit_request(principal, 1, usage)
    limiter.decide(request)
    request, _ = limits.confirm_decision(request, principal, usage, lambda: principal)
    assert request.decision is not None
    if request.decision.code == LimitCode.ADMITTED:
        return "ok"
    error = limits.limit_exceeded_error(principal, request)
    return {"code": error.code, **error.details}


def hold(organization: BillingOrganization, meter: str, quantity: str, **properties: str) -> Any:
    hold_id = ids.new_id()
    with organization.transaction() as session:
        session.execute(
            text("""INSERT INTO holds (organization_id, id, source, idempotency_key, meter_code, quantity, properties,
                created_at, expires_at)
              VALUES (:org, :id, 'llm', :key, :meter, :quantity, CAST(:properties AS jsonb), :at, :end)"""),
            {
                "org": organization.id,
                "id": hold_id,
                "key": str(hold_id),
                "meter": meter,
                "quantity": quantity,
                "properties": str(properties).replace("'", '"'),
                "at": clock.now(),
                "end": clock.now() + timedelta(minutes=15),
            },
        )
    return hold_id


def release(organization: BillingOrganization, hold_id: Any) -> None:
    with organization.transaction() as session:
        values = {"id": hold_id, "at": clock.now()}
        session.execute(text("UPDATE holds SET status = 'released', ended_at = :at WHERE id = :id"), values)


def forget_counters(cache: redis.Redis) -> None:
    for name in cache.scan_iter("*:q:*"):
        cache.delete(name)


def stored_counters(cache: redis.Redis) -> dict[str, int]:
    return {
        name.decode().rpartition(":q:")[2].partition(":")[2]: int(cache.get(name))
        for name in cache.scan_iter("*:q:*")
        if not name.endswith(b":over")
    }


def test_quota_counts_fractions_and_names_them(acme: BillingOrganization) -> None:
    set_limits(acme, quotas={"tokens": "2.5"})
    assert [call(acme, tokens("1.25")), call(acme, tokens("1.25"))] == ["ok", "ok"]
    refused = call(acme, tokens("0.000001"))
    assert {name: refused[name] for name in ("code", "meter", "limit", "used")} == {
        "code": "QUOTA_EXCEEDED",
        "meter": "tokens",
        "limit": "2.5",
        "used": "2.5",
    }


def test_whole_quotas_stay_integers_and_other_meters_pass(acme: BillingOrganization) -> None:
    set_limits(acme, quotas={"tokens": "2"})
    assert call(acme, tokens("2")) == "ok"
    refused = call(acme, tokens("1"))
    assert (refused["limit"], refused["used"]) == (2, 2)
    assert call(acme, MeteredUsage("maps", Decimal(5))) == call(acme) == "ok"


def test_counters_are_exact_far_beyond_what_lua_counts(acme: BillingOrganization, cache: redis.Redis) -> None:
    """10^18 millionths, one by one: a number of Lua is exact to 2^53 only."""
    set_limits(acme, quotas={"tokens": "999999999999"})
    assert call(acme, tokens("999999999998.999999")) == "ok"
    assert call(acme, tokens("0.000002"))["used"] == "999999999998.999999"
    assert call(acme, tokens("0.000001")) == "ok"
    assert stored_counters(cache)["$quota:tokens"] == 999_999_999_999_000_000
    assert call(acme, tokens("0.000001"))["used"] == 999_999_999_999


def test_counter_stops_at_its_highest_value(acme: BillingOrganization, cache: redis.Redis) -> None:
    set_limits(acme, cap_minor=10**15)
    for _ in range(3):
        assert call(acme, tokens("600000000000")) == "ok"
    assert stored_counters(cache)["$ai@1:tokens"] == MAX_COUNTER_VALUE


def test_value_of_the_dimension_prices_the_spend(acme: BillingOrganization, cache: redis.Redis) -> None:
    set_limits(acme, cap_minor=300)
    assert [call(acme, tokens("2", model="large")), call(acme, tokens("500", model="tiny"))] == ["ok", "ok"]
    refused = call(acme, tokens("1", model="large"))
    assert (refused["code"], refused["spent"]) == ("SPEND_CAP_REACHED", "2.50")
    assert call(acme, tokens("500")) == "ok"
    assert stored_counters(cache) == {
        "$ai@1:tokens": 1_000_000_000,
        "$ai@1:tokens:large": 2_000_000,
        "$spend:USD": 3_000_000,
    }


def test_meter_without_a_price_is_not_compared_with_the_cap(acme: BillingOrganization) -> None:
    set_limits(acme, cap_minor=0)
    assert call(acme, MeteredUsage("maps", Decimal(5))) == "ok"
    assert call(acme, tokens("1"))["code"] == "SPEND_CAP_REACHED"


def test_meter_that_does_not_add_up_is_compared_with_what_was_recorded(
    acme: BillingOrganization, cache: redis.Redis
) -> None:
    """The gate adds nothing; the minute's run raises the counters, and the quota refuses above its limit only."""
    set_limits(acme, cap_minor=1_000, quotas={"peak": "5"})
    peak = MeteredUsage("peak", Decimal(7))
    assert [call(acme, peak), call(acme, peak)] == ["ok", "ok"]
    acme.use(5, "peak")
    alerts.evaluate_alerts(clock.now())
    assert (stored_counters(cache), call(acme, peak)) == ({"$quota:peak": 5_000_000, "$spend:USD": 5_000_000}, "ok")
    acme.use(7, "peak")
    acme.use(6, "peak")
    alerts.evaluate_alerts(clock.now())
    assert call(acme, peak)["used"] == 7
    with tenancy.system_session("billing.account") as session:
        session.execute(text("UPDATE organization_limits SET ceilings = '{}'"))
    assert call(acme, peak) == "ok"
    acme.use(12, "peak")
    alerts.evaluate_alerts(clock.now())
    assert call(acme, peak)["code"] == "SPEND_CAP_REACHED"


@pytest.mark.parametrize("is_redis_empty", [False, True])
def test_open_holds_count_like_usage(acme: BillingOrganization, cache: redis.Redis, *, is_redis_empty: bool) -> None:
    set_limits(acme, cap_minor=500, quotas={"tokens": "10"})
    assert call(acme, tokens("1", model="large")) == "ok"
    acme.use(1, "tokens", properties={"model": "large"})
    held = hold(acme, "tokens", "3", model="large")
    hold(acme, "peak", "900")
    if is_redis_empty:
        forget_counters(cache)
    else:
        alerts.evaluate_alerts(clock.now())
    assert call(acme, tokens("2", model="large"))["spent"] == "4.00"
    assert call(acme, tokens("7"))["used"] == 4
    release(acme, held)
    for _ in range(2):
        alerts.evaluate_alerts(clock.now())
    assert call(acme, tokens("2", model="large")) == "ok"


def test_holds_are_shown_apart_from_the_spend(acme: BillingOrganization) -> None:
    acme.use(1, "tokens", properties={"model": "large"})
    hold(acme, "tokens", "3", model="large")
    hold(acme, "tokens", "1000")
    with acme.transaction() as session:
        state = spend_cap.get_cap_state(session, acme.id)
        running = current_period.read_current_period(session, acme.id)
    assert (state.spent.total, state.spent.held, running.so_far_minor) == (100, 400, 100)
    assert state.spent.metered == {"tokens": 1}


def is_cap_reached(organization: BillingOrganization) -> bool:
    with organization.transaction() as session:
        period = session.get_one(BillingPeriod, (organization.id, principal_of(organization).terms.period_id))
        profile = session.get_one(BillingProfile, organization.id)
        segments = subscriptions.list_segments(session, organization.id)
        return spend_cap.is_cap_reached(session, profile, period, segments, clock.now())


def test_cap_is_reached_when_holds_leave_nothing_for_a_unit(acme: BillingOrganization) -> None:
    set_limits(acme, cap_minor=200)
    assert (call(acme, tokens("0.5", model="large")), is_cap_reached(acme)) == ("ok", False)
    hold(acme, "tokens", "1.5", model="large")
    alerts.evaluate_alerts(clock.now())
    assert is_cap_reached(acme)


def test_unit_of_a_meter_that_does_not_add_up_does_not_reach_the_cap(acme: BillingOrganization) -> None:
    """A peak of one unit would cost more than is left, but no call is refused for it."""
    acme.switch(publish_prices("peaks", {"peak": {"model": "per_unit", "unit_price": "50.00"}}), clock.now())
    set_limits(acme, cap_minor=1_000)
    peak = MeteredUsage("peak", Decimal(1))
    assert (call(acme, peak), is_cap_reached(acme)) == ("ok", False)
    acme.use(1, "peak")
    alerts.evaluate_alerts(clock.now())
    assert (call(acme, peak)["code"], is_cap_reached(acme)) == ("SPEND_CAP_REACHED", True)


def test_recount_without_redis_is_that_of_postgresql(acme: BillingOrganization) -> None:
    set_limits(acme, cap_minor=500, quotas={"tokens": "10"})
    acme.use(4, "tokens", properties={"model": "large"})
    hold(acme, "tokens", "1", model="large")
    request = limits.build_limit_request(principal_of(acme), 0, [tokens("1", model="large")])
    assert {counter.name: counter.last_value for counter in request.recount()} == {
        "$quota:tokens": 5_000_000,
        "$ai@1:tokens:large": 5_000_000,
        "$spend:USD": 5_000_000,
    }
