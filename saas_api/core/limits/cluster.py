"""Limits on a Redis Cluster: each key is asked of the node that has its slot, with a circuit breaker for each node.

The client of redis-py reads the distribution of slots again in every call that fails, one thread after the other, and
loads a script on all nodes at once. So a node that hangs would hold up every call, and one that is down would fail
those of the others.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis import crc
from redis.exceptions import AskError, MovedError, TryAgainError

from saas_api.core.limits import circuit_breaker, direct_connections
from saas_api.core.limits.circuit_breaker import CircuitBreaker, RedisUnavailable
from saas_api.core.limits.direct_connections import Command, DirectConnections, Script
from saas_api.core.redis_url import RedisUrl

MAX_ATTEMPTS = 4
"""Nodes that are asked for one key, each because the one before named it."""
REFRESH_SECONDS = 1
_ASKING: Command = ("ASKING",)
Send = Callable[..., list[Any]]
"""Sends a request on connections, after further commands, and returns the answers to all."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the cluster."""

    host: str
    port: int
    connections: DirectConnections
    breaker: CircuitBreaker

    def ask(self, send: Send, before: Sequence[Command]) -> list[Any] | AskError | TryAgainError:
        """The answers, or the error that says that another node or nobody has the keys: an answer, too.

        raises: RedisUnavailable
        """

        def attempt() -> list[Any] | AskError | TryAgainError:
            try:
                return send(self.connections, *before)
            except (AskError, TryAgainError) as redirection:
                return redirection

        return self.breaker.call(attempt)


class Cluster:
    """The nodes of a Redis Cluster."""

    def __init__(self, url: RedisUrl) -> None:
        """Ask nobody yet: a cluster that is away does not keep a process from starting."""
        self._url = url
        self._breaker = circuit_breaker.breaker_of(url.name)
        self._nodes: dict[tuple[str, int], Node] = {}
        self._owners: list[Node | None] = []  # by slot; empty until a node has told
        self._lock = threading.Lock()
        self._refresh_at = 0.0
        self._turn = 0

    def execute(self, command: Command) -> Any:
        """The answer to a command, whose keys are in one slot.

        raises: RedisUnavailable
        """
        return self._send(command[1], lambda connections, *before: connections.execute(*before, command))[0]

    def run_script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The answer of a script, whose keys are in one slot.

        raises: RedisUnavailable
        """
        return self._send(
            keys[0], lambda connections, *before: connections.run_script(script, keys, arguments, *before)
        )[0]

    def read_and_run(
        self, read_key: str, script: Script, keys: Sequence[str], arguments: Sequence[Any]
    ) -> tuple[int | None, Any]:
        """An integer, and the answer of a script after it; None for the integer when its node does not answer.

        raises: RedisUnavailable for the script
        """
        try:
            value = int(self.execute(("GET", read_key)) or 0)
        except RedisUnavailable:
            value = None
        return value, self.run_script(script, keys, arguments)

    def breaker_of(self, key: str) -> CircuitBreaker:
        """The breaker of the node that has a key."""
        owner = self._owners[crc.key_slot(key.encode())] if self._owners else None
        return owner.breaker if owner is not None else self._breaker

    def group(self, keys: Iterable[str]) -> list[list[str]]:
        """The keys of each slot."""
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(crc.key_slot(key.encode()), []).append(key)
        return list(groups.values())

    def find_answering(self) -> Mapping[str, bool]:
        """Whether each node with slots answers and accepts commands, by its name."""
        if not self._owners:
            self._refresh_soon()
        owners = set(filter(None, self._owners))
        return {node.breaker.server: _accepts_commands(node) for node in owners} or {self._url.name: False}

    def _send(self, key: str, send: Send) -> list[Any]:
        slot = crc.key_slot(key.encode())
        node = self._get_owner(slot)
        before: tuple[Command, ...] = ()
        for _ in range(MAX_ATTEMPTS):
            try:
                answers = node.ask(send, before)
            except RedisUnavailable:
                self._refresh_soon()  # a replica may have taken the slot over
                raise
            if isinstance(answers, list):
                return answers[len(before) :]
            if isinstance(answers, TryAgainError):  # keys of a slot that moves are on two nodes for a moment
                break
            node, before = self._get_node(answers.host or node.host, answers.port), (_ASKING,)
            if isinstance(answers, MovedError):
                self._owners[slot], before = node, ()
                self._refresh_soon()
        raise RedisUnavailable

    def _get_owner(self, slot: int) -> Node:
        if not self._owners and self._lock.acquire(timeout=direct_connections.TIMEOUT_SECONDS):
            try:
                if not self._owners:
                    self._breaker.call(self._read_owners)
            finally:
                self._lock.release()
        owner = self._owners[slot] if self._owners else None
        if owner is None:
            self._refresh_soon()
            raise RedisUnavailable
        return owner

    def _get_node(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            server_url = self._url.of_server(host, port)
            connections = DirectConnections(direct_connections.low_latency_pool(server_url))
            node = Node(host, port, connections, circuit_breaker.breaker_of(f"{host}:{port}"))
            self._nodes[host, port] = node
        return node

    def _refresh_soon(self) -> None:
        """Read again who has which slot, in one thread and at most once a second. Never raises."""
        if time.monotonic() < self._refresh_at or not self._lock.acquire(blocking=False):
            return
        try:
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._breaker.call(self._read_owners)
        except RedisUnavailable:
            pass
        finally:
            self._lock.release()

    def _read_owners(self) -> None:
        """Ask nodes who has which slot, until one tells or 50 ms have passed: next time, others are asked first.

        raises: RedisError
        """
        ends_at, reason = time.monotonic() + direct_connections.TIMEOUT_SECONDS, "no node answers"
        for node in self._list_candidates():
            try:
                [ranges] = node.connections.execute(("CLUSTER", "SLOTS"))
            except redis.RedisError as error:
                self._turn += 1
                reason = f"{node.breaker.server}: {error}"
            else:
                self._owners = self._parse_owners(ranges, node)
                return
            if time.monotonic() > ends_at:
                break
        raise redis.ConnectionError(reason)

    def _list_candidates(self) -> list[Node]:
        """The nodes that are known, another one first after each failure, those that are away last."""
        seeds = itertools.starmap(self._get_node, self._url.servers)
        nodes = list(dict.fromkeys([*seeds, *filter(None, self._owners)]))
        start = self._turn % len(nodes)
        return sorted(nodes[start:] + nodes[:start], key=lambda node: node.breaker.is_away)

    def _parse_owners(self, ranges: Sequence[Any], asked: Node) -> list[Node | None]:
        """The node of each slot.

        ranges: first and last slot, and the host and port of its primary; an empty host is that of the node asked
        """
        owners: list[Node | None] = [None] * crc.REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            node = self._get_node(host.decode() if host else asked.host, port)
            owners[first : last + 1] = [node] * (last + 1 - first)
        return owners


def _accepts_commands(node: Node) -> bool:
    try:
        [state] = node.connections.execute(("CLUSTER", "INFO"))
    except redis.RedisError:
        return False
    return b"cluster_state:ok" in state
