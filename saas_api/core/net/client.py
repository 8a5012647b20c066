"""Post_once to a vetted address, connection pool, wall-clock deadline."""

import heapq
import http.client
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saas_api.core.net import vetting
from saas_api.core.net.vetting import ConnectionFailed, VettedUrl

IDLE_CONNECTIONS, IDLE_SECONDS = 4, 30.0
_TIMEOUT_ERRORS = "No answer in time."


class DeadlineExceeded(Exception):
    """The other side did not answer within the deadline."""


@dataclass(frozen=True)
class HttpResponse:
    """What the other side answered.

    body: cut at the number of bytes the caller wanted
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def post_once(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    deadline: float = 15.0,
    connect: float = 5.0,
    max_response: int = 16_384,
    allowed: Sequence[str] = (),
) -> HttpResponse:
    """Send once, to an address that was vetted at this moment or lately.

    deadline: seconds of wall-clock time for everything
    connect: seconds for the connection alone
    max_response: bytes of the answer that are read
    raises: Blocked, TimedOut, Unreachable
    """
    ends_at = time.monotonic() + deadline
    target = vetting.parse_url(url)
    key = (target.scheme, target.host, target.port, tuple(allowed))
    kept = _idle.take(key)
    if kept is not None:
        reply = _send_request(kept, target, body, headers, ends_at, max_response)
        if reply is not None:
            _idle.put(key, kept, reply)
            return reply.reply
    target = vetting.resolve_and_vet(target, allowed)
    fresh = _Connection(target, min(connect, deadline), ends_at)
    reply = _send_request(fresh, target, body, headers, ends_at, max_response)
    if reply is None:
        raise ConnectionFailed("The connection was cut.")
    _idle.put(key, fresh, reply)
    return reply.reply


class _Connection(http.client.HTTPConnection):
    """A connection to one of the vetted addresses, under the name that was asked for."""

    def __init__(self, target: VettedUrl, connect: float, ends_at: float) -> None:
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
                self.sock = _connect(address, self.port, left)
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
        with _watch.watch(self.sock, self.ends_at):
            self.sock.do_handshake()


def _connect(address: str, port: int, seconds: float) -> socket.socket:
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
class _BoundedReader:
    reply: HttpResponse
    is_reusable: bool


def _send_request(
    connection: _Connection, target: VettedUrl, body: bytes, headers: Mapping[str, str], ends_at: float, most: int
) -> _BoundedReader | None:
    """The answer; None where a kept connection turned out dead before it said anything."""
    is_reused = connection.sock is not None
    connection.ends_at = ends_at
    response = None
    try:
        if not is_reused:
            connection.connect()
        with _watch.watch(connection.sock, ends_at):
            connection.sock.settimeout(max(0.001, ends_at - time.monotonic()))
            connection.request("POST", target.path, body, dict(headers))
            response = connection.getresponse()
            excerpt = response.read(most)
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        if time.monotonic() >= ends_at or isinstance(error, TimeoutError):
            raise DeadlineExceeded(_TIMEOUT_ERRORS) from error
        if is_reused and response is None:
            return None
        raise ConnectionFailed(_error_text(error)) from error
    if time.monotonic() >= ends_at:  # a socket that was shut looks like the end of the answer
        connection.close()
        raise DeadlineExceeded(_TIMEOUT_ERRORS)
    is_whole = response.isclosed() and not response.will_close
    if not is_whole:
        connection.close()
    return _BoundedReader(HttpResponse(response.status, dict(response.headers.items()), excerpt), is_whole)


def _error_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate is not valid: {error.verify_message}"[:200]
    return (str(error) or type(error).__name__)[:200]


@dataclass
class _IdlePool:
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

    def put(self, key: Any, connection: _Connection, read: _BoundedReader) -> None:
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


def _close_socket(watched: socket.socket) -> None:
    try:
        socket.socket.shutdown(watched, socket.SHUT_RDWR)  # below TLS: its reader sees the end and nothing else
    except OSError:
        return


class DeadlineWatcher:
    """Sockets and the instants at which they are shut."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Any]] = []
        self._done: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, watched: socket.socket, ends_at: float) -> "_WatchedSocket":
        """Watch a socket for the length of a `with` block."""
        with self._changed:
            number = next(self._numbers)
            heapq.heappush(self._due, (ends_at, number, watched))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()
        return _WatchedSocket(self, number)

    def unwatch(self, number: int) -> None:
        """Let a socket go."""
        with self._changed:
            self._done.add(number)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                ends_at, number, watched = self._due[0]
                left = ends_at - time.monotonic()
                if left > 0 and number not in self._done:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._due)
                if number in self._done:
                    self._done.discard(number)
                    continue
            _close_socket(watched)


@dataclass
class _WatchedSocket:
    watch: DeadlineWatcher
    number: int

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.watch.unwatch(self.number)


_watch = DeadlineWatcher()
_idle = _IdlePool()
