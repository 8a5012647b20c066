"""Limits on the primary of a service that a Sentinel watches: before, during and after a failover."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.limits import backends, diagnosis
from saas_api.core.limits.backends import Backend
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.direct_connections import Script
from tests.support.accounts import make_key, sign_up
from tests.support.http_receiver import wait_until
from tests.support.limits_backends import connect, counting_in
from tests.support.messages import LIST, SEND, SMS
from tests.support.rate_limits import stay_within_a_minute
from tests.support.redis_servers import PASSWORD, WatchedService, run_watched_service

COUNT = Script.of("return redis.call('INCR', KEYS[1])")
BACK_SECONDS = 60


@pytest.fixture
def service() -> Iterator[WatchedService]:
    with run_watched_service() as running:
        yield running


def answers(backend: Backend) -> bool:
    try:
        backend.run_script(COUNT, ["key"], [])
    except RedisUnavailable:
        return False
    return True


def test_60_concurrent_calls_at_a_limit_of_20_pass_exactly_20(
    app: Flask, client: FlaskClient, service: WatchedService
) -> None:
    key = make_key(client, sign_up(client), rate_limit_per_minute=20)
    with counting_in(service.url):
        stay_within_a_minute(12)
        with ThreadPoolExecutor(16) as pool:
            responses = pool.map(lambda _: app.test_client().get(LIST, headers=key), range(60))
            counts = Counter(response.status_code for response in responses)
    assert counts == {200: 20, 429: 40}
    assert any(b":rl:" in name for name in service.primary.command("KEYS", "*"))


@pytest.mark.parametrize("is_hung", [True, False])
def test_replica_counts_after_the_primary_is_gone(
    client: FlaskClient, service: WatchedService, is_hung: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(client, sign_up(client))
    with counting_in(service.url, 0.5) as backend:
        wait_until(lambda: answers(backend), BACK_SECONDS)
        if is_hung:
            service.primary.stop_answering()
        else:
            service.primary.kill()
        assert [client.post(SEND, json=SMS, headers=key).status_code for _ in range(5)] == [202] * 5
        wait_until(lambda: answers(backend), BACK_SECONDS)
    assert service.replica.command("ROLE")[0] == b"master"
    assert int(service.replica.command("GET", "key")) > 0


def test_primary_that_has_become_a_replica_is_asked_no_more(
    service: WatchedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(service.url, monkeypatch)
    assert answers(backend)
    wait_until(service.fail_over, BACK_SECONDS)
    wait_until(service.primary.has_link, BACK_SECONDS)
    wait_until(lambda: answers(backend), BACK_SECONDS)
    before = int(service.replica.command("GET", "key"))
    assert answers(backend)
    assert int(service.replica.command("GET", "key")) == before + 1


def test_sentinels_that_hang_or_know_no_such_service_are_asked_no_second_time_at_once(
    service: WatchedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not answers(connect(service.url.replace("/limits", "/others"), monkeypatch))
    others = service.url.replace("@", "@127.0.0.1:1,")
    assert answers(connect(others, monkeypatch)), "the first refuses connections, the second knows the primary"
    service.sentinel.stop_answering()
    try:
        hung = connect(service.url, monkeypatch, 0.2)
        assert not any(answers(hung) for _ in range(100))
        assert set(hung.find_answering().values()) == {False}
    finally:
        service.sentinel.answer_again()
    wait_until(lambda: answers(hung), BACK_SECONDS)


def test_doctor_has_one_line_for_each_mistake(service: WatchedService) -> None:
    sentinel, primary = service.sentinel, service.primary
    assert diagnosis.find_problems(service.url) == []
    unknown = f"{sentinel.name} watches no service others, but limits"
    assert diagnosis.find_problems(service.url.replace("/limits", "/others")) == [unknown]
    [problem] = diagnosis.find_problems(service.url.replace(sentinel.name, primary.name))
    assert problem.startswith(f"{primary.name} is not a Sentinel: ")
    [problem] = diagnosis.find_problems(service.url.replace(sentinel.name, "127.0.0.1:1"))
    assert problem.startswith("127.0.0.1:1: Error 111 connecting to 127.0.0.1:1")
    wrong = service.url.replace(PASSWORD, "wrong")
    assert not answers(backends.connect(wrong))
    [problem] = diagnosis.find_problems(wrong)
    assert problem.startswith(f"{sentinel.name}: invalid username-password pair")
