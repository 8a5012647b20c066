"""Rate limits and quotas of requests: Flask-Limiter with a storage and a strategy around limits.lua.

Without Redis each process admits its share of a rate limit, and quotas are counted from PostgreSQL.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import redis
from flask import g, has_request_context
from flask_limiter import ApplicationLimit, Limiter, RateLimitExceeded
from flask_limiter._limits import RuntimeLimit
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import STRATEGIES as LIMITS_STRATEGIES
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from saas_api.core import metrics, request_context, tracing
from saas_api.core.limits.direct_connections import DirectConnections
from saas_api.core.observability import get_logger

log = get_logger(__name__)

USER_RATE_LIMIT, USER_RATE_WINDOW_MS = 300, 60_000
_CONNECTION_ERRORS = (redis.RedisError,)  # an error inside a script, such as a full memory, has no class of its own
_SCRIPT = Path(__file__).with_name("limits.lua").read_text(encoding="utf-8")
_PUBLISH_GENERATION = """
local known = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > known then redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400) end
"""
"""Only raises the generation: a late publisher must not make an old one current again."""
_ADJUST_COUNTERS = """
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, ARGV[i]) end
end
"""
"""Leaves alone what Redis has lost meanwhile: it is counted from PostgreSQL again."""


class RedisUnavailable(Exception):
    """Redis does not answer, or the circuit breaker is open because it did not answer before."""


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


def low_latency_pool(url: str) -> redis.ConnectionPool:
    """A connection pool with timeouts of 50 ms and without retries."""
    return redis.ConnectionPool.from_url(
        url,
        socket_connect_timeout=0.05,
        socket_timeout=0.05,
        max_connections=64,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


class CircuitBreakerStorage(RedisStorage):
    """Redis behind a circuit breaker: open after three failures in a row, then one probe a second."""

    STORAGE_SCHEME = ["saas+redis", "saas+rediss", "saas+redis+unix"]

    def __init__(self, uri: str, local_share: float = 1.0, **options: Any) -> None:
        self.local_share = local_share
        self.failures = 0
        self.retry_at = 0.0
        super().__init__(uri.removeprefix("saas+"), **options)
        self.connections = DirectConnections(self.storage)
        self.gate_script = self.storage.register_script(_SCRIPT)
        self.publish_script = self.storage.register_script(_PUBLISH_GENERATION)
        self.adjust_script = self.storage.register_script(_ADJUST_COUNTERS)

    @property
    def is_away(self) -> bool:
        """Whether the last call failed."""
        return self.failures > 0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused without asking Redis."""
        return self.failures >= 3

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call Redis; a request in which one call failed does not wait for another.

        raises: RedisUnavailable
        """
        if (self.is_open and time.monotonic() < self.retry_at) or (has_request_context() and "redis_is_away" in g):
            raise RedisUnavailable
        self.retry_at = time.monotonic() + 1
        try:
            result = call(*arguments)
        except _CONNECTION_ERRORS as error:
            self.failures += 1
            metrics.REDIS_FAILURES.labels(type(error).__name__).inc()
            if has_request_context():
                g.redis_is_away = True
            if self.failures == 3 or isinstance(error, redis.ResponseError):
                log.error("redis_away", kind=type(error).__name__, reason=str(error)[:200])  # noqa: TRY400 - no traceback
            raise RedisUnavailable from error
        self.failures = 0
        return result


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
            return self.storage.run(super().get_window_stats, item, *identifiers)
        except RedisUnavailable:
            return self.local.get_window_stats(item, *identifiers)

    def _sliding_window(self, method: str, item: RateLimitItem, identifiers: Sequence[str], cost: int) -> bool:
        in_redis = functools.partial(getattr(SlidingWindowCounterRateLimiter, method), self, cost=cost)
        try:
            return bool(self.storage.run(in_redis, item, *identifiers))
        except RedisUnavailable:
            return bool(getattr(self.local, method)(item, *identifiers, cost=cost))

    def decide(self, call: LimitRequest) -> bool:
        """Decide on a call with an API key, and return whether it is not refused; the decision stays in the call."""
        began_at = time.perf_counter()
        try:
            with tracing.span("redis limits", "client"):
                result = self.storage.run(self._run_script, call)
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

    def _run_script(self, call: LimitRequest) -> Any:
        storage = self.storage
        if call.watched_key is None:
            return storage.connections.run_script(storage.gate_script, call.keys, call.arguments)[0]
        watched = ("GET", call.watched_key)
        value, result = storage.connections.run_script(storage.gate_script, call.keys, call.arguments, watched)
        call.watched_value = int(value or 0)
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


def limiter_config(redis_url: str, processes: int) -> dict[str, Any]:
    """Flask-Limiter's settings.

    processes: number of web processes; without Redis each admits its share
    """
    address = redis_url.replace("unix://", "redis+unix://", 1)
    return {
        "RATELIMIT_STORAGE_URI": f"saas+{address}",
        "RATELIMIT_STORAGE_OPTIONS": {
            "connection_pool": low_latency_pool(redis_url),
            "key_prefix": "rl1",
            "local_share": 1 / processes,
        },
    }


def get_storage() -> CircuitBreakerStorage:
    """The limiter's storage."""
    return limiter.storage  # type: ignore[return-value]  # our scheme names our class


def decide(call: LimitRequest) -> bool:
    """Let limits.lua decide on a call with an API key; the decision stays in the call.

    returns: whether the call is not refused
    """
    strategy: GateStrategy = limiter.limiter  # type: ignore[assignment]  # our strategy's name names our class
    return strategy.decide(call)


def generation_key(organization_id: UUID) -> str:
    """Redis key of an organization's generation; the tag keeps all its keys in one slot of a cluster."""
    return f"{{{organization_id}}}:gen"


def release_quota(call: LimitRequest) -> None:
    """Subtract from quotas what Redis counted for a call that was admitted and failed, once. Never raises.

    Without Redis nothing happens.
    """
    first = 1 + len(call.windows)
    pairs = zip(call.keys[first:], call.counters, strict=True) if call.is_counted else ()
    call.is_released = True
    amounts = {key: -counter.units for key, counter in pairs if counter.units}
    if amounts:
        with contextlib.suppress(RedisUnavailable):
            get_storage().run(get_storage().adjust_script, list(amounts), list(amounts.values()))


def publish_generation(key: str, generation: int) -> None:
    """Make every process reload what it cached under an older generation; only raises the generation. Never raises.

    key: of the generation in Redis
    """
    try:
        get_storage().run(get_storage().publish_script, [key], [generation])
    except RedisUnavailable:
        log.warning("generation_unpublished", key=key)
