"""Where limits are counted: one Redis, the primary of a Sentinel service, or the nodes of a Redis Cluster."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import redis

from saas_api.core import redis_url
from saas_api.core.limits import circuit_breaker, direct_connections, sentinel
from saas_api.core.limits.circuit_breaker import CircuitBreaker
from saas_api.core.limits.cluster import Cluster
from saas_api.core.limits.direct_connections import Command, DirectConnections, Script
from saas_api.core.redis_url import RedisUrl


class Backend(Protocol):
    """What limits ask of Redis; each call raises RedisUnavailable."""

    def execute(self, command: Command) -> Any:
        """The answer to a command, whose keys are in one slot."""

    def run_script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The answer of a script, whose keys are in one slot."""

    def read_and_run(
        self, read_key: str, script: Script, keys: Sequence[str], arguments: Sequence[Any]
    ) -> tuple[int | None, Any]:
        """An integer and the answer of a script after it, in one round trip where one server has both.

        read_key: in any slot; 0 where Redis has no such key, None where the server of this key alone is away
        """

    def breaker_of(self, key: str) -> CircuitBreaker:
        """The breaker of the server that has a key."""

    def group(self, keys: Iterable[str]) -> list[list[str]]:
        """The keys of each call that changes them: one slot in a cluster, all of them elsewhere."""

    def find_answering(self) -> Mapping[str, bool]:
        """Whether each server answers, by its name."""


class SingleServer:
    """One Redis, or the primary of a Sentinel service."""

    def __init__(self, url: RedisUrl, connections: DirectConnections) -> None:
        self._connections = connections
        self._breaker = circuit_breaker.breaker_of(url.name)

    def execute(self, command: Command) -> Any:
        """See `Backend`."""
        return self._breaker.call(self._connections.execute, command)[0]

    def run_script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """See `Backend`."""
        return self._breaker.call(self._connections.run_script, script, keys, arguments)[0]

    def read_and_run(
        self, read_key: str, script: Script, keys: Sequence[str], arguments: Sequence[Any]
    ) -> tuple[int | None, Any]:
        """See `Backend`."""
        value, answer = self._breaker.call(self._connections.run_script, script, keys, arguments, ("GET", read_key))
        return int(value or 0), answer

    def breaker_of(self, key: str) -> CircuitBreaker:
        """See `Backend`."""
        del key
        return self._breaker

    def group(self, keys: Iterable[str]) -> list[list[str]]:
        """See `Backend`."""
        return [list(keys)]

    def find_answering(self) -> Mapping[str, bool]:
        """See `Backend`."""
        try:
            self._connections.execute(("PING",))
        except redis.RedisError:
            return {self._breaker.server: False}
        return {self._breaker.server: True}


def connect(address: str) -> Backend:
    """The backend of an address; nobody is asked yet."""
    url = redis_url.parse(address)
    if url.kind == "cluster":
        return Cluster(url)
    if url.kind == "sentinel":
        return SingleServer(url, sentinel.connect(url))
    return SingleServer(url, DirectConnections(direct_connections.low_latency_pool(address)))
