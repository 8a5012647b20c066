"""Sending: one POST to a vetted address, over a connection that may be kept for a while.

Nothing is followed: no redirect, no proxy, no cookie.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saas_api.core.net.vetting import Target, Unreachable, read, vetted
from saas_api.core.net.watch import Watch

IDLE_CONNECTIONS, IDLE_SECONDS = 4, 30.0
_LATE = "No answer in time."


class TimedOut(Exception):
    """The other side did not answer within the deadline."""


@dataclass(frozen=True)
class Reply:
    """What the other side answered.

    body: cut at the number of bytes the caller wanted
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    deadline: float = 15.0,
    connect: float = 5.0,
    max_response: int = 16_384,
    allowed: Sequence[str] = (),
) -> Reply:
    """Send once, to an address that was vetted at this moment or lately.

    deadline: seconds of wall-clock time for everything
    connect: seconds for the connection alone
    max_response: bytes of the answer that are read
    raises: Blocked, TimedOut, Unreachable
    """
    ends_at = time.monotonic() + deadline
    target = read(url)
    key = (target.scheme, target.host, target.port, tuple(allowed))
    kept = _idle.take(key)
    if kept is not None:
        reply = _ask(kept, target, body, headers, ends_at, max_response)
        if reply is not None:
            _idle.put(key, kept, reply)
            return reply.reply
    target = vetted(target, allowed)
    fresh = _Connection(target, min(connect, deadline), ends_at)
    reply = _ask(fresh, target, body, headers, ends_at, max_response)
    if reply is None:
        raise Unreachable("The connection was cut.")
    _idle.put(key, fresh, reply)
    return reply.reply


class _Connection(http.client.HTTPConnection):
    """A connection to one of the vetted addresses, under the name that was asked for."""

    def __init__(self, target: Target, connect: float, ends_at: float) -> None:
        super().__init__(target.host, target.port, timeout=connect)
        self.target = target
        self.ends_at = ends_at
        self.made_at = time.monotonic()
        self.default_port = 443 if target.scheme == "https" else 80

    def connect(self) -> None:
        """Connect to the first address that answers, within the time for it."""
        last: OSError | None = None
        until = time.monotonic() + float(self.timeout or 0)
        for address in self.target.addresses:
            left = min(until, self.ends_at) - time.monotonic()
            if left <= 0:
                break
            try:
                self.sock = _dial(address, self.port, left)
            except OSError as error:
                last = error
            else:
                self._secure()
                return
        raise last or TimeoutError

    def _secure(self) -> None:
        if self.target.scheme != "https":
            return
        plain = self.sock
        self.sock = _tls.wrap_socket(plain, server_hostname=self.target.host, do_handshake_on_connect=False)
        with _watch.over(self.sock, self.ends_at):
            self.sock.do_handshake()


def _dial(address: str, port: int, seconds: float) -> socket.socket:
    dialled = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        dialled.settimeout(seconds)
        dialled.connect((address, port))
    except OSError:
        dialled.close()
        raise
    dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return dialled


_tls = ssl.create_default_context()


@dataclass(frozen=True)
class _Read:
    reply: Reply
    is_reusable: bool


def _ask(
    connection: _Connection, target: Target, body: bytes, headers: Mapping[str, str], ends_at: float, most: int
) -> _Read | None:
    """The answer; None where a kept connection turned out dead before it said anything."""
    is_reused = connection.sock is not None
    connection.ends_at = ends_at
    response = None
    try:
        if not is_reused:
            connection.connect()
        with _watch.over(connection.sock, ends_at):
            connection.sock.settimeout(max(0.001, ends_at - time.monotonic()))
            connection.request("POST", target.path, body, dict(headers))
            response = connection.getresponse()
            excerpt = response.read(most)
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        if time.monotonic() >= ends_at or isinstance(error, TimeoutError):
            raise TimedOut(_LATE) from error
        if is_reused and response is None:
            return None
        raise Unreachable(_reason(error)) from error
    if time.monotonic() >= ends_at:  # a socket that was shut looks like the end of the answer
        connection.close()
        raise TimedOut(_LATE)
    is_whole = response.isclosed() and not response.will_close
    if not is_whole:
        connection.close()
    return _Read(Reply(response.status, dict(response.headers.items()), excerpt), is_whole)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate is not valid: {error.verify_message}"[:200]
    return (str(error) or type(error).__name__)[:200]


@dataclass
class _Idle:
    """Connections that may be asked again, for as long as their address counts as vetted."""

    kept: dict[Any, list[_Connection]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cleared_at: float = 0.0

    def take(self, key: Any) -> _Connection | None:
        """One that is young enough."""
        with self.lock:
            waiting = self.kept.get(key, [])
            while waiting:
                connection = waiting.pop()
                if time.monotonic() - connection.made_at < IDLE_SECONDS:
                    return connection
                connection.close()
            return None

    def put(self, key: Any, connection: _Connection, read: _Read) -> None:
        """Keep one whose answer was read to its end."""
        if not read.is_reusable:
            return
        with self.lock:
            self._clear()
            waiting = self.kept.setdefault(key, [])
            if len(waiting) < IDLE_CONNECTIONS:
                waiting.append(connection)
                return
        connection.close()

    def _clear(self) -> None:
        """Close what nobody came back for; looked at once a while, for there may be many."""
        now = time.monotonic()
        if now < self.cleared_at + IDLE_SECONDS:
            return
        self.cleared_at = now
        for key, waiting in list(self.kept.items()):
            young = [connection for connection in waiting if now - connection.made_at < IDLE_SECONDS]
            for connection in set(waiting).difference(young):
                connection.close()
            self.kept[key] = young
            if not young:
                del self.kept[key]


_watch = Watch()
_idle = _Idle()
