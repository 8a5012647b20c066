"""Rate limits and quotas of requests: Flask-Limiter with a storage and a strategy around limits.lua.

Without Redis each process admits its share of a rate limit, and quotas are counted from PostgreSQL.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import redis
from flask import g
from flask_limiter import ApplicationLimit, Limiter, RateLimitExceeded
from flask_limiter._limits import RuntimeLimit
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import STRATEGIES as LIMITS_STRATEGIES
from limits.strategies import SlidingWindowCounterRateLimiter

from saas_api.core import metrics, redis_url, request_context, tracing
from saas_api.core.limits import backends
from saas_api.core.limits.backends import Backend
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.direct_connections import Script
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

USER_RATE_LIMIT, USER_RATE_WINDOW_MS = 300, 60_000
_SCHEME_PREFIX = "saas+"
_DECIDE = Script.of(Path(__file__).with_name("limits.lua").read_text(encoding="utf-8"))
_PUBLISH_GENERATION = Script.of("""
local known = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > known then redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400) end
""")
"""Only raises the generation: a late publisher must not make an old one current again."""


class QuotaCounter(Protocol):
    """A quota: units that this request adds, their limit, and the last known value.

    limit: -1 for none
    lower_bound, upper_bound: of the counter; outside, the request was computed from a wrong value
    """

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def last_value(self) -> int: ...
    @property
    def lower_bound(self) -> int: ...
    @property
    def upper_bound(self) -> int: ...


class LimitCode(IntEnum):
    """Outcomes of limits.lua, which knows them by their numbers.

    STATE_LOST: Redis has lost the generation or a counter
    COUNTER_OUT_OF_BOUNDS: the request was computed from a wrong value of a counter
    """

    ADMITTED = 1
    RATE_LIMITED = 0
    QUOTA_EXCEEDED = -1
    STALE_GENERATION = -2
    STATE_LOST = -3
    COUNTER_OUT_OF_BOUNDS = -4

    @property
    def is_final(self) -> bool:
        """Whether the limits have decided; the gate reloads and asks again otherwise."""
        return self >= LimitCode.QUOTA_EXCEEDED

    @property
    def is_refusal(self) -> bool:
        return self in (LimitCode.RATE_LIMITED, LimitCode.QUOTA_EXCEEDED)


@dataclass(frozen=True)
class LimitDecision:
    """The answer of limits.lua.

    full: index from 1 of the full window or, after the windows, counter; 0 for none
    windows: (remaining, milliseconds until one more request passes) of each
    """

    code: LimitCode
    generation: int
    full: int
    windows: Sequence[tuple[int, int]]
    used: Sequence[int]
    is_local: bool


@dataclass
class LimitRequest:
    """Arguments of one call of limits.lua, and its decision.

    recount: reads the counters from PostgreSQL when Redis does not answer
    watched_key: whose integer is read in the same round trip; None for none
    watched_value: that integer, 0 when Redis does not have the key; None when Redis did not answer
    is_released: what the call added to quotas was given back
    """

    keys: list[str]
    arguments: list[Any]
    windows: Sequence[tuple[int, int]]
    counters: Sequence[QuotaCounter]
    recount: Callable[[], Sequence[QuotaCounter]] | None = None
    decision: LimitDecision | None = None
    watched_key: str | None = None
    watched_value: int | None = None
    is_released: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether the quotas in Redis have what the call added."""
        decision = self.decision
        is_admitted = decision is not None and decision.code == LimitCode.ADMITTED and not decision.is_local
        return is_admitted and not self.is_released


class CircuitBreakerStorage(RedisStorage):
    """The storage of Flask-Limiter: Redis behind circuit breakers.

    local_share: part of a rate limit that this process admits without Redis
    """

    STORAGE_SCHEME = [f"{_SCHEME_PREFIX}{scheme}" for scheme in redis_url.SCHEMES]
    base_exceptions = redis.RedisError

    def __init__(self, uri: str, local_share: float = 1.0, key_prefix: str = RedisStorage.PREFIX) -> None:
        """Ask Redis nothing yet, and let the library's functions call its scripts through the backend."""
        super(RedisStorage, self).__init__(uri)
        self.key_prefix = key_prefix
        self.local_share = local_share
        self.backend = backends.connect(uri.removeprefix(_SCHEME_PREFIX))
        for name in ("incr_expire", "sliding_window", "acquire_sliding_window"):
            script = Script.of(getattr(self, f"SCRIPT_{name.upper()}").decode())
            setattr(self, f"lua_{name}", functools.partial(self._run_script, script))

    def _run_script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self.backend.run_script(script, keys, arguments)


class GateStrategy(SlidingWindowCounterRateLimiter):
    """limits.lua for calls with an API key, the library's sliding window for others, local windows without Redis."""

    storage: CircuitBreakerStorage

    def __init__(self, storage: Any) -> None:
        super().__init__(storage)
        self.local = SlidingWindowCounterRateLimiter(MemoryStorage())

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Count a request, and return whether it is admitted."""
        return self._sliding_window("hit", item, identifiers, cost)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Return whether a request would be admitted."""
        return self._sliding_window("test", item, identifiers, cost)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> Any:
        """Remaining requests and reset time, from Redis or from this process."""
        try:
            return super().get_window_stats(item, *identifiers)
        except RedisUnavailable:
            return self.local.get_window_stats(item, *identifiers)

    def _sliding_window(self, method: str, item: RateLimitItem, identifiers: Sequence[str], cost: int) -> bool:
        try:
            return bool(getattr(SlidingWindowCounterRateLimiter, method)(self, item, *identifiers, cost=cost))
        except RedisUnavailable:
            return bool(getattr(self.local, method)(item, *identifiers, cost=cost))

    def decide(self, call: LimitRequest) -> bool:
        """Decide on a call with an API key, and return whether it is not refused; the decision stays in the call."""
        began_at = time.perf_counter()
        try:
            with tracing.span("redis limits", "client"):
                result = self._ask_redis(call)
        except RedisUnavailable:
            call.decision = self._decide_locally(call)
        else:
            end = 3 + 2 * len(call.windows)
            windows = list(zip(result[3:end:2], result[4:end:2], strict=True))
            used = [int(value) for value in result[end:]]
            call.decision = LimitDecision(LimitCode(result[0]), result[1], result[2], windows, used, is_local=False)
        place = "process" if call.decision.is_local else "redis"
        metrics.LIMIT_SECONDS.labels(place).observe(time.perf_counter() - began_at)
        return not call.decision.code.is_refusal

    def _ask_redis(self, call: LimitRequest) -> Any:
        backend = self.storage.backend
        if call.watched_key is None:
            return backend.run_script(_DECIDE, call.keys, call.arguments)
        call.watched_value, result = backend.read_and_run(call.watched_key, _DECIDE, call.keys, call.arguments)
        return result

    def _decide_locally(self, call: LimitRequest) -> LimitDecision:
        share, n = self.storage.local_share, len(call.windows)
        items = [RateLimitItemPerSecond(max(1, int(limit * share)), ms // 1000) for limit, ms in call.windows]
        keys = call.keys[1 : 1 + n]
        full = next((i for i, item in enumerate(items, 1) if not self.local.test(item, keys[i - 1])), 0)
        if not full and call.recount and call.counters:
            call.counters = call.recount()
            over = (j for j, c in enumerate(call.counters, 1) if c.limit != -1 and c.limit < c.last_value + c.units)
            full = next((n + j for j in over), 0)
        windows = []
        for item, key in zip(items, keys, strict=True):
            if not full:
                self.local.hit(item, key)
            windows.append((self.local.get_window_stats(item, key).remaining, item.get_expiry() * 1000))
        refusal = LimitCode.RATE_LIMITED if full <= n else LimitCode.QUOTA_EXCEEDED
        code = refusal if full else LimitCode.ADMITTED
        return LimitDecision(code, 0, full, windows, [], is_local=True)


class UserLimit(ApplicationLimit):
    """The only application limit, which Flask-Limiter's hook evaluates once for each request."""

    def __iter__(self) -> Iterator[RuntimeLimit]:
        """A fixed limit for a user, none without one."""
        if g.get("user_id"):
            yield request_limit(USER_RATE_LIMIT, USER_RATE_WINDOW_MS, "user")


@functools.cache
def request_limit(limit: int, window_ms: int, scope: str) -> RuntimeLimit:
    """A limit of Flask-Limiter, parsed once.

    scope: "user" for the limit of users; other limits are counted elsewhere, and this one says what was exceeded
    """
    text = f"{limit} per {window_ms // 1000} second"
    return next(iter(ApplicationLimit(limit_provider=text, scope=scope, key_function=lambda: f"user:{g.user_id}")))


class GateLimiter(Limiter):
    """Flask-Limiter, whose hook before a request has one limit, that of users.

    For a call with an API key it asks the strategy at once, and for others, such as services, it has nothing to do.
    """

    def _check_request_limit(self, callable_name: str | None = None, in_middleware: bool = True) -> None:
        if not in_middleware or g.get("user_id"):
            super()._check_request_limit(callable_name, in_middleware)
            return
        call: LimitRequest | None = g.get("gate_call")
        if call is not None and not decide(call):
            raise RateLimitExceeded(request_limit(*call.windows[0], "gate"))


LIMITS_STRATEGIES["saas"] = GateStrategy

limiter = GateLimiter(
    key_func=request_context.client_network,
    strategy="saas",
    application_limits=[UserLimit(limit_provider="")],
    headers_enabled=False,
    swallow_errors=False,
    in_memory_fallback_enabled=False,
)


def limiter_config(limits_redis_url: str, processes: int) -> dict[str, Any]:
    """Flask-Limiter's settings.

    processes: number of web processes; without Redis each admits its share
    """
    return {
        "RATELIMIT_STORAGE_URI": f"{_SCHEME_PREFIX}{limits_redis_url}",
        "RATELIMIT_STORAGE_OPTIONS": {"key_prefix": "rl1", "local_share": 1 / processes},
    }


def get_storage() -> CircuitBreakerStorage:
    """The limiter's storage."""
    return limiter.storage  # type: ignore[return-value]  # our scheme names our class


def get_backend() -> Backend:
    """Where limits are counted."""
    return get_storage().backend


def find_own_servers() -> Mapping[str, bool]:
    """Whether each server of LIMITS_REDIS_URL answers, by its name; empty where the queue has the same Redis."""
    if setting("LIMITS_REDIS_URL") == setting("REDIS_URL"):
        return {}
    return get_backend().find_answering()


def decide(call: LimitRequest) -> bool:
    """Let limits.lua decide on a call with an API key; the decision stays in the call.

    returns: whether the call is not refused
    """
    strategy: GateStrategy = limiter.limiter  # type: ignore[assignment]  # our strategy's name names our class
    return strategy.decide(call)


def generation_key(organization_id: UUID) -> str:
    """Redis key of an organization's generation; the tag keeps all its keys in one slot of a cluster."""
    return f"{{{organization_id}}}:gen"


def publish_generation(key: str, generation: int) -> None:
    """Make every process reload what it cached under an older generation; only raises the generation. Never raises.

    key: of the generation in Redis
    """
    try:
        get_backend().run_script(_PUBLISH_GENERATION, [key], [generation])
    except RedisUnavailable:
        log.warning("generation_unpublished", key=key)
