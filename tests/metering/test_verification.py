"""Verification of API keys by services: its codes, what it counts and records, and its repeats."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from saas_api.services import services
from saas_api.usage import request_recorder
from tests.support.accounts import User, create_key
from tests.support.metering import move_to_plan, publish_meter, usage_events, verify
from tests.support.rate_limits import stay_within_a_minute
from tests.support.services import change_service, create_service, service_headers

PER_CALL = {"lookups": {"model": "per_unit", "unit_price": "0.5"}}
VERIFY = "/api/v1/keys/verify"


@pytest.fixture
def token(app: Flask) -> str:
    """The token of the service "lookups", which has a meter."""
    publish_meter(app)
    return create_service(app)


@pytest.fixture
def key(client: FlaskClient, alice: User) -> str:
    return secret(client, alice)


def secret(client: FlaskClient, user: User, **options: Any) -> str:
    _, headers = create_key(client, user, **options)
    return headers["X-API-Key"]


def test_valid_key_is_described(client: FlaskClient, alice: User, token: str, key: str) -> None:
    answer = verify(client, token, key)
    assert (answer["valid"], answer["code"], answer["mode"], answer["plan"]) == (True, "VALID", "live", "free")
    assert (answer["organization_id"], answer["external_id"]) == (alice.organization_id, None)
    assert answer["key_id"].startswith("key_")
    assert "messages:write" in answer["scopes"]
    assert answer["entitlements"]["rate_limit_per_minute"] == 60
    [limit] = answer["limits"]
    assert (limit["name"], limit["limit"], limit["remaining"]) == ("plan", 60, 59)
    assert answer["spend"]["used"] == "0.00"
    assert not {"usage_event_id", "hold_id", "units", "retry_after_seconds"} & answer.keys()


def test_meter_is_recorded_once_with_its_dimensions_and_endpoint(
    app: Flask, client: FlaskClient, token: str, key: str
) -> None:
    call = {"meter": "lookups", "quantity": "2.5", "dimensions": {"country": "NG"}, "endpoint": "POST /v1/lookups"}
    answer = verify(client, token, key, **call)
    assert (answer["code"], answer["units"]) == ("VALID", "2.5")
    assert answer["usage_event_id"].startswith("uev_")
    rows = usage_events(app, "source, meter_code, quantity::float, properties, endpoint, api_key_id IS NOT NULL")
    assert rows == [("lookups", "lookups", 2.5, {"country": "NG"}, "POST /v1/lookups", True)]


def test_quantity_is_one_unless_it_is_given(client: FlaskClient, token: str, key: str) -> None:
    assert [verify(client, token, key, meter="lookups", **more)["units"] for more in ({}, {"quantity": 3})] == [1, 3]


@pytest.mark.parametrize("bad", ["sk_live_x", "svc_" + "0" * 46, "sk_live_" + "0" * 46, "é" * 10])
def test_malformed_and_unknown_keys_are_not_found(client: FlaskClient, token: str, bad: str) -> None:
    assert verify(client, token, bad) == {"valid": False, "code": "NOT_FOUND"}


def test_revoked_key_is_not_found_at_the_next_call(client: FlaskClient, alice: User, token: str, key: str) -> None:
    key_id = verify(client, token, key)["key_id"]
    assert alice.call("DELETE", f"/keys/{key_id}")[0] == 200
    assert verify(client, token, key) == {"valid": False, "code": "NOT_FOUND"}


def test_scope_and_network_of_the_key_are_checked(app: Flask, client: FlaskClient, alice: User, token: str) -> None:
    narrow = secret(client, alice, allowed_ips=["203.0.113.0/24"], scopes=["usage:read"])
    codes = [
        verify(client, token, narrow, permission=permission, meter="lookups", **address)["code"]
        for permission, address in (
            ("usage:read", {"ip": "203.0.113.9"}),
            ("usage:read", {"ip": "198.51.100.9"}),
            ("usage:read", {}),
            ("lookups:write", {"ip": "203.0.113.9"}),
        )
    ]
    assert codes == ["VALID", "IP_NOT_ALLOWED", "IP_NOT_ALLOWED", "INSUFFICIENT_SCOPE"]
    assert len(usage_events(app)) == 1


def test_rate_limit_is_shared_with_the_application(app: Flask, client: FlaskClient, alice: User, token: str) -> None:
    key = secret(client, alice, rate_limit_per_minute=2)
    stay_within_a_minute(5)
    client.get("/api/v1/messages", headers={"X-API-Key": key})
    answers = [verify(client, token, key, meter="lookups") for _ in range(2)]
    assert [answer["code"] for answer in answers] == ["VALID", "RATE_LIMITED"]
    assert [limit["name"] for limit in answers[0]["limits"]] == ["plan", "key"]
    assert 1 <= answers[1]["retry_after_seconds"] <= 120
    assert len(usage_events(app)) == 1
    with app.app_context():
        request_recorder.flush()
    status, usage = alice.call("GET", "/usage")
    assert (status, usage["summary"]["rate_limited_requests"]) == (200, 1)


def test_quota_counts_fractions_and_refuses_what_exceeds_it(
    app: Flask, client: FlaskClient, alice: User, token: str, key: str
) -> None:
    move_to_plan(app, alice, entitlements={"lookups_a_month": {"meter": "lookups", "limit": "2"}})
    codes = [verify(client, token, key, meter="lookups", quantity=q)["code"] for q in ("1.5", "1", "0.5", "0.000001")]
    assert codes == ["VALID", "QUOTA_EXCEEDED", "VALID", "QUOTA_EXCEEDED"]
    assert sum(quantity for _, quantity in usage_events(app)) == 2


def test_spend_cap_refuses_what_exceeds_it(app: Flask, client: FlaskClient, alice: User, token: str, key: str) -> None:
    move_to_plan(app, alice, prices=PER_CALL)
    assert alice.call("PUT", "/billing/spend-cap", amount="1.00", action="block")[0] == 200
    answers = [verify(client, token, key, meter="lookups") for _ in range(3)]
    assert [answer["code"] for answer in answers] == ["VALID", "VALID", "SPEND_CAP_REACHED"]
    assert answers[1]["spend"] == {"used": "1.00", "cap": "1.00", "currency": "USD"}


def test_overdue_organization_is_restricted_where_a_call_is_metered(
    client: FlaskClient, alice: User, token: str, key: str, superuser: Any
) -> None:
    assert alice.call("GET", "/billing/subscription")[0] == 200  # opens the billing account
    execute(superuser, "UPDATE subscriptions SET standing = 'restricted'")
    answers = [verify(client, token, key, **call)["code"] for call in ({"meter": "lookups"}, {})]
    assert answers == ["SUBSCRIPTION_RESTRICTED", "VALID"]


def test_suspended_organization_is_refused(client: FlaskClient, token: str, key: str, superuser: Any) -> None:
    execute(superuser, "UPDATE organizations SET status = 'suspended'")
    assert verify(client, token, key)["code"] == "ORGANIZATION_SUSPENDED"


def execute(superuser: Any, sql: str) -> None:
    with superuser, superuser.cursor() as cursor:
        cursor.execute(sql)


def test_test_key_is_valid_and_its_usage_is_kept_apart(
    app: Flask, client: FlaskClient, alice: User, token: str
) -> None:
    answer = verify(client, token, secret(client, alice, mode="test"), meter="lookups")
    assert (answer["code"], answer["mode"], answer["units"]) == ("VALID", "test", 1)
    assert "usage_event_id" not in answer
    assert usage_events(app) == []
    assert usage_events(app, "meter_code, quantity::int", "test_usage_events") == [("lookups", 1)]


def test_repeat_with_the_same_event_id_answers_the_same_and_counts_nothing(
    app: Flask, client: FlaskClient, alice: User, token: str, key: str
) -> None:
    move_to_plan(app, alice, entitlements={"lookups_a_month": {"meter": "lookups", "limit": "2"}})
    call = {"meter": "lookups", "quantity": 2, "event_id": "order-1"}
    answers = [verify(client, token, key, **call) for _ in range(3)]
    assert {(answer["code"], answer["usage_event_id"], answer["units"]) for answer in answers} == {
        ("VALID", answers[0]["usage_event_id"], 2)
    }
    assert len(usage_events(app)) == 1
    assert verify(client, token, key, meter="lookups", event_id="order-2")["code"] == "QUOTA_EXCEEDED"


def test_repeat_does_not_spend_twice(app: Flask, client: FlaskClient, alice: User, token: str, key: str) -> None:
    move_to_plan(app, alice, prices=PER_CALL)
    assert alice.call("PUT", "/billing/spend-cap", amount="5.00", action="block")[0] == 200
    answers = [verify(client, token, key, meter="lookups", event_id="order-1") for _ in range(3)]
    assert [answer["spend"]["used"] for answer in answers] == ["0.50"] * 3


def test_parallel_repeats_count_once(app: Flask, token: str, key: str) -> None:
    def call(_: int) -> str:
        return str(verify(app.test_client(), token, key, meter="lookups", event_id="order-1")["usage_event_id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(call, range(16)))) == 1
    assert len(usage_events(app)) == 1


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("meter", {"meter": "unknown"}),
        ("quantity", {"meter": "lookups", "quantity": 0}),
        ("quantity", {"meter": "lookups", "quantity": -1}),
        ("quantity", {"meter": "lookups", "quantity": 1.5}),
        ("quantity", {"meter": "lookups", "quantity": "1.0000001"}),
        ("quantity", {"meter": "lookups", "quantity": "1e3"}),
        ("quantity", {"quantity": 1}),
        ("event_id", {"meter": "lookups", "event_id": "é"}),
        ("event_id", {"meter": "lookups", "event_id": "a\0"}),
        ("hold_seconds", {"meter": "lookups", "hold_seconds": 9}),
        ("ip", {"ip": "203.0.113.0/24"}),
        ("permission", {"permission": "lookups"}),
        ("endpoint", {"meter": "lookups", "endpoint": "lookups"}),
        ("dimensions", {"meter": "lookups", "dimensions": {"a b": "c"}}),
        ("dimensions", {"meter": "lookups", "dimensions": {"model": "a\0b"}}),
        ("colour", {"colour": "red"}),
    ],
)
def test_malformed_question_is_an_error_of_its_field(
    client: FlaskClient, token: str, key: str, field: str, call: dict[str, Any]
) -> None:
    response = client.post(VERIFY, headers=service_headers(token), json={"key": key, **call})
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert field in {problem["field"].partition(".")[0] for problem in response.json["error"]["details"]["fields"]}


def test_only_a_service_may_verify(client: FlaskClient, alice: User, token: str, key: str) -> None:
    for headers in ({}, {"X-API-Key": key}, alice.headers, service_headers("svc_" + "0" * 46)):
        response = client.post(VERIFY, headers=headers, json={"key": key})
        assert (response.status_code, response.json["error"]["code"]) == (401, "INVALID_SERVICE_TOKEN")


def test_revoked_service_is_refused_at_the_next_call_and_records_nothing(
    app: Flask, client: FlaskClient, token: str, key: str
) -> None:
    assert verify(client, token, key, meter="lookups")["valid"]
    change_service(app, services.revoke_service, "lookups")
    for bad in (key, "sk_live_x"):
        response = client.post(VERIFY, headers=service_headers(token), json={"key": bad, "meter": "lookups"})
        assert response.status_code == 401
    assert len(usage_events(app)) == 1


def test_verification_takes_one_round_trip_to_redis(
    client: FlaskClient, config: dict[str, Any], token: str, key: str
) -> None:
    for _ in range(2):
        verify(client, token, key, meter="lookups")
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.config_resetstat()
        verify(client, token, key, meter="lookups")
        calls = {name: row["calls"] for name, row in control.info("commandstats").items()}
    assert (calls["cmdstat_evalsha"], calls["cmdstat_get"]) == (1, 1)  # in one pipeline


def test_redis_without_the_script_decides_all_the_same(
    client: FlaskClient, config: dict[str, Any], token: str, key: str
) -> None:
    assert verify(client, token, key)["valid"]
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.flushall()
        control.script_flush()
    assert verify(client, token, key)["limits"][0]["remaining"] == 59
