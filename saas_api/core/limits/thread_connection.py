"""Commands to Redis on a connection of the calling thread, for what every call of the API asks.

A connection of redis-py logs in, encrypts, keeps the time-outs and parses with hiredis. Its pool, retries and command
objects cost more than Redis itself and are left out: a thread reads what it has asked before it asks anything else.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import redis
from redis.exceptions import NoScriptError

Command = tuple[Any, ...]
"""A name and its arguments: texts, bytes and integers."""


class _HeldConnection(NamedTuple):
    """A thread's connection, with the pool and the process for which it was made."""

    connection: Any
    pool: redis.ConnectionPool
    process_id: int


class ThreadConnections:
    """Connections of the threads of a process, with the address, login and time-outs of a client's pool."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._threads = threading.local()

    def execute(self, *commands: Command) -> list[Any]:
        """The answers to some commands, in one round trip.

        raises: RedisError: the first error answer after all were read; ConnectionError or TimeoutError, after which the
            commands may have run
        """
        connection = self._open()
        try:
            connection.send_packed_command(
                [b"".join(hiredis.pack_command(command) for command in commands)], check_health=False
            )
            answers = [_read_answer(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # what Redis still answers would be taken for the answer to the next command
            raise
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                raise answer
        return answers

    def run_script(
        self, script: redis.commands.core.Script, keys: Sequence[str], arguments: Sequence[Any], *before: Command
    ) -> list[Any]:
        """The answers to some commands and to a script after them, in one round trip.

        raises: as `execute`
        """
        try:
            return self.execute(*before, ("EVALSHA", script.sha, len(keys), *keys, *arguments))
        except NoScriptError:  # Redis was restarted
            return self.execute(*before, ("EVAL", script.script, len(keys), *keys, *arguments))

    def _open(self) -> Any:
        """The connection of this thread: a new one after a fork, connected again where the server has closed it."""
        held: _HeldConnection | None = getattr(self._threads, "held", None)
        pool = self._client.connection_pool
        if held is None or held.pool is not pool or held.process_id != os.getpid():
            connection = pool.connection_class(**pool.connection_kwargs)
            held = self._threads.held = _HeldConnection(connection, pool, os.getpid())
        connection = held.connection
        if connection.is_connected and _is_closed_by_server(connection):
            connection.disconnect()
        if not connection.is_connected:
            connection.connect()
        return connection


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
