"""Rate limits of keys: exact under load, reported in headers, and local without Redis."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import make_key, sign_up
from tests.support.messages import LIST, SEND, SMS
from tests.support.rate_limits import stay_within_a_minute
from tests.support.redis_outage import NO_REDIS, HungRedis, run_hung_redis
from tests.support.second_process import web_process


@pytest.mark.long
def test_200_concurrent_sends_at_a_limit_of_60_accept_exactly_60(
    app: Flask, client: FlaskClient, patient_redis: None
) -> None:
    key = make_key(client, sign_up(client))
    stay_within_a_minute(35)
    with ThreadPoolExecutor(16) as pool:
        responses = pool.map(lambda _: app.test_client().post(SEND, json=SMS, headers=key), range(200))
        counts = Counter(response.status_code for response in responses)
    assert counts == {202: 60, 429: 140}


def test_responses_to_a_key_have_rate_limit_headers(client: FlaskClient) -> None:
    key = make_key(client, sign_up(client))
    stay_within_a_minute(5)
    for remaining in (59, 58):
        headers = client.get(LIST, headers=key).headers
        assert headers["X-RateLimit-Limit"] == "60"
        assert headers["X-RateLimit-Remaining"] == str(remaining)
        assert 0 < int(headers["X-RateLimit-Reset"]) - time.time() <= 61
        assert headers["RateLimit-Policy"] == '"organization";q=60;w=60'
        assert re.fullmatch(rf'"organization";r={remaining};t=[0-9]+', headers["RateLimit"])
        assert "Retry-After" not in headers


def test_rate_limit_error_names_the_limit_and_the_wait(client: FlaskClient) -> None:
    """A13: the wait is rounded up and never beyond the reset."""
    key = make_key(client, sign_up(client), rate_limit_per_minute=1)
    stay_within_a_minute(5)
    assert client.get(LIST, headers=key).status_code == 200
    response = client.get(LIST, headers=key)
    error = response.json["error"]
    assert (response.status_code, error["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    wait = error["details"]["retry_after_seconds"]
    assert error["details"] == {"limit": 1, "window_seconds": 60, "retry_after_seconds": wait, "scope": "key"}
    assert int(response.headers["Retry-After"]) == wait
    assert response.headers["RateLimit"] == f'"key";r=0;t={wait}'
    assert response.headers["RateLimit-Policy"] == '"organization";q=60;w=60, "key";q=1;w=60'
    assert response.headers["X-RateLimit-Limit"] == "1"
    assert response.headers["X-RateLimit-Remaining"] == "0"


def test_call_rejected_by_the_limit_of_its_key_leaves_that_of_the_organization(client: FlaskClient) -> None:
    user = sign_up(client)
    narrow, wide = make_key(client, user, rate_limit_per_minute=1), make_key(client, user)
    stay_within_a_minute(5)
    for _ in range(3):
        client.get(LIST, headers=narrow)
    assert client.get(LIST, headers=wide).headers["X-RateLimit-Remaining"] == "58"


def test_test_keys_have_their_own_windows(client: FlaskClient) -> None:
    user = sign_up(client)
    live, test = make_key(client, user), make_key(client, user, mode="test")
    for key in (live, test):
        assert client.get(LIST, headers=key).headers["X-RateLimit-Remaining"] == "59"


def test_invalid_request_is_counted(client: FlaskClient) -> None:
    key = make_key(client, sign_up(client))
    response = client.post(SEND, json={"to": "invalid"}, headers=key)
    assert (response.status_code, response.headers["X-RateLimit-Remaining"]) == (422, "59")


def test_call_with_a_key_takes_one_round_trip_to_redis(client: FlaskClient, config: dict[str, Any]) -> None:
    key = make_key(client, sign_up(client))
    client.get(LIST, headers=key)
    client.get(LIST, headers=key)
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.config_resetstat()
        client.get(LIST, headers=key)
        calls = {name: row["calls"] for name, row in control.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == 1


def test_flushed_redis_is_filled_again(client: FlaskClient, config: dict[str, Any]) -> None:
    key = make_key(client, sign_up(client))
    client.get(LIST, headers=key)
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.flushall()
    assert client.get(LIST, headers=key).headers["X-RateLimit-Remaining"] == "59"


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungRedis]:
    """A Redis that takes connections and never answers."""
    with run_hung_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.fixture(params=["dead", "hung"])
def unavailable_redis(request: pytest.FixtureRequest, hung: HungRedis) -> str:
    """URL of a Redis that does not answer."""
    return hung.url if request.param == "hung" else NO_REDIS


@pytest.mark.long
def test_without_redis_each_process_admits_its_share(
    client: FlaskClient, config: dict[str, Any], unavailable_redis: str, hung: HungRedis
) -> None:
    key = make_key(client, sign_up(client))
    with web_process(config, REDIS_URL=unavailable_redis, WEB_CONCURRENCY=2) as process:
        process.call("GET", "/healthz", {})
        stay_within_a_minute(15)
        responses = [process.call("GET", LIST, key) for _ in range(40)]
    assert Counter(response["status"] for response in responses) == {200: 30, 429: 10}
    assert hung.count_connections() < 40  # a breaker that never opened lets every call wait for Redis


def test_without_redis_a_message_is_accepted(
    client: FlaskClient, config: dict[str, Any], unavailable_redis: str
) -> None:
    key = make_key(client, sign_up(client))
    with web_process(config, REDIS_URL=unavailable_redis) as process:
        assert [process.call("POST", SEND, key, SMS)["status"] for _ in range(5)] == [202] * 5


@pytest.mark.parametrize("setting", [("maxmemory", "1"), ("min-replicas-to-write", "1")])
def test_redis_without_memory_for_writes_causes_no_errors(
    client: FlaskClient, config: dict[str, Any], setting: tuple[str, str]
) -> None:
    user = sign_up(client)
    key = make_key(client, user)
    with redis.Redis.from_url(config["REDIS_URL"]) as connection:
        connection.config_set(*setting)
        try:
            responses = [client.post(SEND, json=SMS, headers=key).status_code for _ in range(5)]
            signed_in = client.get("/api/v1/auth/me", headers=user.headers).status_code
        finally:
            connection.config_set(setting[0], "0")
    assert (responses, signed_in) == ([202] * 5, 200)


@pytest.mark.parametrize("path", ["/api/v1/messages/zzz", "/api/v1/keys/zzz"])
def test_malformed_id_in_a_path_does_not_bypass_the_gate(client: FlaskClient, path: str) -> None:
    user = sign_up(client)
    assert client.get(path).status_code == 401
    assert client.get(path, headers=user.headers).status_code == 404


def test_denied_calls_use_up_the_limit_of_their_key_only(client: FlaskClient) -> None:
    """A3: a leaked key that is bound to other addresses stops no other key."""
    alice = sign_up(client)
    leaked, good = make_key(client, alice, allowed_ips=["203.0.113.0/24"]), make_key(client, alice)
    statuses = [client.get(LIST, headers=leaked).status_code for _ in range(62)]
    assert statuses == [403] * 60 + [429] * 2
    assert client.get(LIST, headers=good).status_code == 200
    assert client.get(LIST, headers=good).headers["X-RateLimit-Remaining"] == "58"


def test_denied_key_is_accepted_on_the_next_call_after_a_change(client: FlaskClient) -> None:
    alice = sign_up(client)
    key = make_key(client, alice, allowed_ips=["203.0.113.0/24"])
    assert client.get(LIST, headers=key).status_code == 403
    [made] = client.get("/api/v1/keys", headers=alice.headers).json["data"]["keys"]
    change = client.patch(f"/api/v1/keys/{made['id']}", headers=alice.headers, json={"allowed_ips": []})
    assert change.status_code == 200
    assert client.get(LIST, headers=key).status_code == 200
