"""LimitRequest, LimitDecision, GateCode, the Flask-Limiter storage and strategy around limits.lua."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import redis
from flask import g, has_request_context
from flask_limiter import ApplicationLimit, Limiter
from flask_limiter._limits import RuntimeLimit
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import STRATEGIES as LIMITS_STRATEGIES
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from saas_api.core import request_context
from saas_api.core.observability import get_logger

log = get_logger(__name__)

USER_RATE_LIMIT, USER_RATE_WINDOW_MS = 300, 60_000
_CONNECTION_ERRORS = (redis.RedisError,)  # an error inside a script, such as a full memory, has no class of its own
_SCRIPT = Path(__file__).with_name("limits.lua").read_text(encoding="utf-8")
_PUBLISH = """
local known = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > known then redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400) end
"""
"""Upwards only: a late publisher must not make an old generation current again."""


class RedisUnavailable(Exception):
    """Redis does not answer, or is not asked because it lately did not."""


class QuotaCounter(Protocol):
    """A quota of the gate: units this request adds, the most there may be, and what is known to be used.

    Beyond `low` and `high` of what is used the question itself would be wrong.
    """

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def ceiling(self) -> int: ...
    @property
    def last_value(self) -> int: ...
    @property
    def lower_bound(self) -> int: ...
    @property
    def upper_bound(self) -> int: ...


@dataclass(frozen=True)
class LimitDecision:
    """What the script said.

    code: 1 admitted, 0 a window is full, -1 a counter is full, -2 the caller is stale, -3 Redis is cold,
        -4 a counter lies outside what the caller took it for
    full: from 1, which window or, after the windows, which counter
    windows: (left, milliseconds until one more passes) each
    """

    code: int
    generation: int
    full: int
    windows: Sequence[tuple[int, int]]
    used: Sequence[int]
    is_local: bool


@dataclass
class LimitRequest:
    """One question to the script, and its answer.

    recount: reads the counters from PostgreSQL, for when Redis does not answer
    """

    keys: list[str]
    arguments: list[Any]
    windows: Sequence[tuple[int, int]]
    counters: Sequence[QuotaCounter]
    recount: Callable[[], Sequence[QuotaCounter]] | None = None
    decision: LimitDecision | None = None


def low_latency_pool(url: str) -> redis.ConnectionPool:
    """Connections that give up after 50 ms and never try twice."""
    return redis.ConnectionPool.from_url(
        url,
        socket_connect_timeout=0.05,
        socket_timeout=0.05,
        max_connections=64,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


class CircuitBreakerStorage(RedisStorage):
    """Redis behind a breaker: open after three failures in a row, then one probe a second."""

    STORAGE_SCHEME = ["saas+redis", "saas+rediss", "saas+redis+unix"]

    def __init__(self, uri: str, local_share: float = 1.0, **options: Any) -> None:
        self.local_share = local_share
        self.failures = 0
        self.retry_at = 0.0
        super().__init__(uri.removeprefix("saas+"), **options)
        self.gate_script = self.storage.register_script(_SCRIPT)
        self.publish_script = self.storage.register_script(_PUBLISH)

    @property
    def is_open(self) -> bool:
        """Whether Redis is left alone for the moment."""
        return self.failures >= 3

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Ask Redis; a request that waited in vain once does not wait again.

        raises: Away
        """
        if (self.is_open and time.monotonic() < self.retry_at) or (has_request_context() and "redis_is_away" in g):
            raise RedisUnavailable
        self.retry_at = time.monotonic() + 1
        try:
            answer = call(*arguments)
        except _CONNECTION_ERRORS as error:
            self.failures += 1
            if has_request_context():
                g.redis_is_away = True
            if self.failures == 3 or isinstance(error, redis.ResponseError):
                log.error("redis_away", kind=type(error).__name__, reason=str(error)[:200])  # noqa: TRY400 - no traceback
            raise RedisUnavailable from error
        self.failures = 0
        return answer


class GateStrategy(SlidingWindowCounterRateLimiter):
    """The gate's script for calls under a key, the stock sliding window for the rest, local windows without Redis."""

    storage: CircuitBreakerStorage

    def __init__(self, storage: Any) -> None:
        super().__init__(storage)
        self.local = SlidingWindowCounterRateLimiter(MemoryStorage())

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Count, and say whether it may pass."""
        if identifiers[-1] == "gate":
            return self._gate(g.gate_call)
        return self._plain("hit", item, identifiers, cost)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Say whether it would pass."""
        return self._plain("test", item, identifiers, cost)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> Any:
        """What is left, from wherever it is counted now."""
        try:
            return self.storage.run(super().get_window_stats, item, *identifiers)
        except RedisUnavailable:
            return self.local.get_window_stats(item, *identifiers)

    def _plain(self, verb: str, item: RateLimitItem, identifiers: Sequence[str], cost: int) -> bool:
        stock = functools.partial(getattr(SlidingWindowCounterRateLimiter, verb), self, cost=cost)
        try:
            return bool(self.storage.run(stock, item, *identifiers))
        except RedisUnavailable:
            return bool(getattr(self.local, verb)(item, *identifiers, cost=cost))

    def _gate(self, call: LimitRequest) -> bool:
        try:
            answer = self.storage.run(self.storage.gate_script, call.keys, call.arguments)
        except RedisUnavailable:
            call.decision = self._alone(call)
        else:
            end = 3 + 2 * len(call.windows)
            windows = list(zip(answer[3:end:2], answer[4:end:2], strict=True))
            call.decision = LimitDecision(answer[0], answer[1], answer[2], windows, answer[end:], is_local=False)
        return call.decision.code not in (0, -1)  # stale and cold are no refusals: the gate reloads and asks again

    def _alone(self, call: LimitRequest) -> LimitDecision:
        share, n = self.storage.local_share, len(call.windows)
        items = [RateLimitItemPerSecond(max(1, int(limit * share)), ms // 1000) for limit, ms in call.windows]
        keys = call.keys[1 : 1 + n]
        full = next((i for i, item in enumerate(items, 1) if not self.local.test(item, keys[i - 1])), 0)
        if not full and call.recount and call.counters:
            call.counters = call.recount()
            over = (j for j, c in enumerate(call.counters, 1) if c.ceiling != -1 and c.ceiling < c.last_value + c.units)
            full = next((n + j for j in over), 0)
        state = []
        for item, key in zip(items, keys, strict=True):
            if not full:
                self.local.hit(item, key)
            state.append((self.local.get_window_stats(item, key).remaining, item.get_expiry() * 1000))
        code = 1 if not full else 0 if full <= n else -1
        return LimitDecision(code, 0, full, state, [], is_local=True)


class GateApplicationLimit(ApplicationLimit):
    """The one application limit: Flask-Limiter's own hook evaluates it once a request."""

    def __iter__(self) -> Iterator[RuntimeLimit]:
        """The gate's question for a key, a fixed limit for a person, nothing for anybody else."""
        if g.get("gate_call"):
            yield gate_limit(*g.gate_call.windows[0], "gate")
        elif g.get("user_id"):
            yield gate_limit(USER_RATE_LIMIT, USER_RATE_WINDOW_MS, "user")


@functools.cache
def gate_limit(limit: int, window_ms: int, scope: str) -> RuntimeLimit:
    """A limit as Flask-Limiter wants it, parsed once."""

    def key() -> str:
        return str(g.gate_call.keys[0]) if scope == "gate" else f"user:{g.user_id}"

    text = f"{limit} per {window_ms // 1000} second"
    return next(iter(ApplicationLimit(limit_provider=text, scope=scope, key_function=key)))


LIMITS_STRATEGIES["saas"] = GateStrategy

limiter = Limiter(
    key_func=request_context.client_ip,
    strategy="saas",
    application_limits=[GateApplicationLimit(limit_provider="")],
    headers_enabled=False,
    swallow_errors=False,
    in_memory_fallback_enabled=False,
)


def limiter_config(redis_url: str, processes: int) -> dict[str, Any]:
    """Flask-Limiter's settings.

    processes: of the web; without Redis each admits its share
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


def generation_key(organization_id: UUID) -> str:
    """Where Redis keeps an organization's generation; the tag holds all its keys in one slot."""
    return f"{{{organization_id}}}:gen"


def release_quota(call: LimitRequest) -> None:
    """Give back what an admitted call had counted against quotas, as far as Redis can be asked; never raises."""
    first = 1 + len(call.windows)
    with contextlib.suppress(RedisUnavailable):
        for key, counter in zip(call.keys[first:], call.counters, strict=True):
            if counter.units:
                get_storage().run(get_storage().storage.decrby, key, counter.units)


def publish_generation(organization_id: UUID, generation: int) -> None:
    """Tell every process that what it remembers of an organization is stale; upwards only, never raises."""
    try:
        get_storage().run(get_storage().publish_script, [generation_key(organization_id)], [generation])
    except RedisUnavailable:
        log.warning("generation_unpublished", organization_id=str(organization_id))
