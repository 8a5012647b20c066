"""Circuit breakers: a Redis server that does not answer is left alone, apart from one probe a second."""

import time
from collections.abc import Callable
from typing import TypeVar

import redis
from flask import g, has_request_context

from saas_api.core import metrics
from saas_api.core.observability import get_logger

log = get_logger(__name__)

FAILURES_UNTIL_OPEN, PROBE_SECONDS = 3, 1
T = TypeVar("T")
_breakers: dict[str, "CircuitBreaker"] = {}


class RedisUnavailable(Exception):
    """Redis does not answer, or the circuit breaker is open because it did not answer before."""


class CircuitBreaker:
    """Open after three failures in a row, then one probe a second.

    server: as logs and metrics call it
    failures: in a row
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.failures = 0
        self.retry_at = 0.0

    @property
    def is_away(self) -> bool:
        """Whether the last call failed."""
        return self.failures > 0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused without asking the server."""
        return self.failures >= FAILURES_UNTIL_OPEN

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the server; a request in which one call failed does not wait for another.

        raises: RedisUnavailable
        """
        if (self.is_open and time.monotonic() < self.retry_at) or self._has_failed_in_request():
            raise RedisUnavailable
        self.retry_at = time.monotonic() + PROBE_SECONDS
        try:
            result = function(*arguments)
        except redis.RedisError as error:  # an error inside a script, such as a full memory, has no class of its own
            self._record_failure(error)
            raise RedisUnavailable from error
        self.failures = 0
        return result

    def _has_failed_in_request(self) -> bool:
        return has_request_context() and "servers_away" in g and self.server in g.servers_away

    def _record_failure(self, error: redis.RedisError) -> None:
        self.failures += 1
        kind = type(error).__name__
        metrics.REDIS_FAILURES.labels(self.server, kind).inc()
        if has_request_context():
            g.setdefault("servers_away", set()).add(self.server)
        if self.failures == FAILURES_UNTIL_OPEN or isinstance(error, redis.ResponseError):
            log.error("redis_away", server=self.server, kind=kind, reason=str(error)[:200])


def breaker_of(server: str) -> CircuitBreaker:
    """The breaker of a server in this process, whatever is asked of it."""
    return _breakers.setdefault(server, CircuitBreaker(server))
