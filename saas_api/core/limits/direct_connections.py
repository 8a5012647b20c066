"""Commands to Redis without the layers of redis-py, for what every call of the API asks.

A connection of redis-py logs in, encrypts, keeps the time-outs and parses with hiredis. Its pool, retries and command
objects cost more than Redis itself and are left out: who has taken a connection reads what it has asked, and then puts
the connection back.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

TIMEOUT_SECONDS = 0.05
Command = tuple[Any, ...]
"""A name and its arguments: texts, bytes and integers."""


@dataclass(frozen=True)
class Script:
    """A script in Lua, which Redis finds by the SHA-1 of its text once it has run it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> "Script":
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def low_latency_options() -> dict[str, Any]:
    """Options of connections and clients with time-outs of 50 ms and without retries."""
    return {
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "socket_timeout": TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }


def low_latency_pool(url: str) -> redis.ConnectionPool:
    """A connection pool with time-outs of 50 ms and without retries."""
    return redis.ConnectionPool.from_url(url, max_connections=64, **low_latency_options())


class _HeldConnection(NamedTuple):
    """A connection, with the process for which it was made."""

    connection: Any
    process_id: int


class DirectConnections:
    """As many connections as threads ask at once, with the address, login and time-outs of a pool."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._idle: list[_HeldConnection] = []  # append and pop are atomic, so it needs no lock

    def execute(self, *commands: Command) -> list[Any]:
        """The answers to some commands, in one round trip.

        raises: RedisError: the first error answer after all were read; ConnectionError or TimeoutError, after which the
            commands may have run
        """
        packed = b"".join([hiredis.pack_command(command) for command in commands])
        held = self._take()
        connection = held.connection
        try:
            connection.send_packed_command([packed], check_health=False)
            answers = [_read_answer(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # what Redis still answers would be taken for the answer to the next command
            raise
        self._idle.append(held)
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                raise answer
        return answers

    def run_script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *before: Command) -> list[Any]:
        """The answers to some commands and to a script after them, in one round trip.

        raises: as `execute`
        """
        try:
            return self.execute(*before, ("EVALSHA", script.sha, len(keys), *keys, *arguments))
        except NoScriptError:  # Redis was restarted
            return self.execute(*before, ("EVAL", script.text, len(keys), *keys, *arguments))

    def _take(self) -> _HeldConnection:
        """The connection that was used last, connected again where the server has closed it, or a new one."""
        process_id = os.getpid()
        while self._idle:
            try:
                held = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if held.process_id != process_id:  # after a fork it belongs to the parent
                continue
            if _is_closed_by_server(held.connection):
                held.connection.disconnect()
                held.connection.connect()
            return held
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.connect()
        return _HeldConnection(connection, process_id)


def _is_closed_by_server(connection: Any) -> bool:
    """Whether a connection on which nothing was asked can be read."""
    try:
        return bool(connection.can_read())
    except (redis.RedisError, OSError):
        return True


def _read_answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
