"""The generation of the catalogue, and the caches that follow it in every process."""

import threading
import time
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.limits import limiter
from saas_api.services import catalogue, service_tokens, services
from saas_api.services.catalogue import GENERATION_KEY, CachedCatalogue
from saas_api.services.service_tokens import InvalidServiceToken
from tests.support import services as support
from tests.support.services import PURPOSE, change_service, create_service


def bump(app: Flask) -> None:
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        catalogue.bump(session)


def test_generation_is_published_after_the_commit_and_republished(app: Flask, cache: redis.Redis) -> None:
    with app.app_context():
        with tenancy.system_session(PURPOSE) as session:
            catalogue.bump(session)
            assert cache.get(GENERATION_KEY) is None
        generation = int(cache.get(GENERATION_KEY) or 0)
        assert generation > 0
        cache.delete(GENERATION_KEY)
        catalogue.republish_generation()
        assert catalogue.read_generation() == generation
        limiter.publish_generation(GENERATION_KEY, generation - 1)
        assert catalogue.read_generation() == generation


def test_change_that_rolls_back_publishes_nothing(app: Flask) -> None:
    def change() -> None:
        with tenancy.system_session(PURPOSE) as session:
            catalogue.bump(session)
            raise LookupError

    with app.app_context():
        with pytest.raises(LookupError):
            change()
        assert catalogue.read_generation() == 0


@pytest.fixture
def loads() -> list[float]:
    """Times at which `counted` has loaded."""
    return []


@pytest.fixture
def counted(loads: list[float]) -> CachedCatalogue[int]:
    """A cached value: how often it was loaded."""

    def load(session: Session) -> int:
        session.execute(sa.text("SELECT count(*) FROM services"))
        loads.append(time.monotonic())
        return len(loads)

    return CachedCatalogue(load)


def test_value_is_loaded_again_for_a_higher_generation_only(app: Flask, counted: CachedCatalogue[int]) -> None:
    bump(app)
    with app.app_context():
        known = catalogue.read_generation()
        assert [counted.get(known), counted.get(None), counted.get(known)] == [1, 1, 1]
        bump(app)
        assert counted.get(None) == 1
        assert [counted.get(catalogue.read_generation()) for _ in range(2)] == [2, 2]


def test_generation_that_redis_has_lost_is_published_by_the_next_reader(
    app: Flask, cache: redis.Redis, counted: CachedCatalogue[int]
) -> None:
    bump(app)
    with app.app_context():
        known = catalogue.read_generation()
        assert counted.get(known) == 1
        cache.flushdb()
        assert catalogue.read_generation() == 0
        assert counted.get(0) == 2
        assert catalogue.read_generation() == known
        assert counted.get(known) == 2


def test_value_is_loaded_once_by_threads_that_need_it_at_once(
    app: Flask, counted: CachedCatalogue[int], loads: list[float]
) -> None:
    start = threading.Barrier(4)

    def read() -> None:
        with app.app_context():
            start.wait()
            counted.get(None)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


@pytest.mark.parametrize(("is_redis_away", "seconds"), [(False, 60), (True, 5)])
def test_value_is_loaded_again_when_it_is_old(
    app: Flask, counted: CachedCatalogue[int], monkeypatch: pytest.MonkeyPatch, is_redis_away: bool, seconds: int
) -> None:
    if is_redis_away:
        open_breaker(monkeypatch)
    with app.app_context():
        assert counted.get(None) == 1
        pass_seconds(monkeypatch, seconds - 1)
        assert counted.get(None) == 1
        pass_seconds(monkeypatch, seconds)
        assert counted.get(None) == 2


def open_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no call reach Redis, as after three that failed."""
    breaker = limiter.get_backend().breaker_of(GENERATION_KEY)
    monkeypatch.setattr(breaker, "failures", 3)
    monkeypatch.setattr(breaker, "retry_at", time.monotonic() + 3600)


def pass_seconds(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    now = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_revoked_service_is_refused_by_the_next_call_in_another_process(app: Flask, config: dict[str, Any]) -> None:
    kept, revoked = create_service(app, "kept"), create_service(app, "revoked")
    with support.second_process(config) as authenticate_there:
        assert [authenticate_there(token) for token in (kept, revoked)] == ["kept", "revoked"]
        change_service(app, services.revoke_service, "revoked")
        assert [authenticate_there(token) for token in (revoked, kept)] == ["INVALID_SERVICE_TOKEN", "kept"]
        new = create_service(app, "new")
        assert authenticate_there(new) == "new"


def test_revoked_service_is_refused_within_five_seconds_without_redis(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = create_service(app)
    open_breaker(monkeypatch)
    with app.app_context():
        assert service_tokens.authenticate(token, "192.0.2.7", catalogue.read_generation()).name == "lookups"
        change_service(app, services.revoke_service, "lookups")
        pass_seconds(monkeypatch, 5)
        with pytest.raises(InvalidServiceToken):
            service_tokens.authenticate(token, "192.0.2.7", catalogue.read_generation())
