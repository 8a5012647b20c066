"""Redis at an address that refuses connections."""

from collections.abc import Iterator

import pytest
import redis
from flask import Flask

from saas_api.core.limits import limiter

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def without_redis(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wake-ups, workers and the scheduler find no Redis during the test; limits still have theirs."""
    pool = limiter.low_latency_pool(NO_REDIS)
    monkeypatch.setitem(app.config, "REDIS_URL", NO_REDIS)
    monkeypatch.setitem(app.extensions, "redis", redis.Redis(connection_pool=pool))
    yield
    limiter.get_storage().failures = 0
    pool.disconnect()
