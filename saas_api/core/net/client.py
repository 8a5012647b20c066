"""HTTP POST to a vetted address, with a pool of idle connections and a wall-clock deadline for everything."""

import http.client
import itertools
import math
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saas_api.core.net import vetting
from saas_api.core.net.vetting import ConnectionFailed, VettedUrl

IDLE_CONNECTIONS, IDLE_CONNECTIONS_TO_ALL, IDLE_SECONDS = 50, 256, 30.0
"""Idle connections to one target, as many as requests that it may receive at the same time, and to all targets."""
_DEFAULT_PORTS = {"https": 443, "http": 80}
_TIMEOUT_MESSAGE = "No answer in time."


_tls = ssl.create_default_context()


class DeadlineExceeded(Exception):
    """The server did not answer within the deadline."""


@dataclass(frozen=True)
class HttpResponse:
    """The response of a server.

    body: its first bytes, at most `max_response`
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
    """Send a POST request once, over a new connection to a vetted address or over an idle one.

    deadline: seconds of wall-clock time for everything
    connect: seconds for the connection alone
    max_response: bytes of the body that are read
    allowed: networks in which private addresses are allowed
    raises: AddressNotAllowed, DeadlineExceeded, ConnectionFailed
    """
    ends_at = time.monotonic() + deadline
    target = vetting.parse_url(url)
    key = (target.scheme, target.host, target.port, tuple(allowed))
    idle = _idle.take(key)
    if idle is not None:
        exchange = _send_request(idle, target, body, headers, ends_at, max_response)
        if exchange is not None:
            _idle.put(key, idle, exchange)
            return exchange.response
    target = vetting.resolve_and_vet(target, allowed)
    connection = _Connection(target, min(connect, deadline), ends_at)
    exchange = _send_request(connection, target, body, headers, ends_at, max_response)
    if exchange is None:
        raise ConnectionFailed("The connection was cut.")
    _idle.put(key, connection, exchange)
    return exchange.response


def request_headers(url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """Return every header that `post_once` sends, in order: those of HTTP itself, then the given ones.

    raises: AddressNotAllowed for a text that is no URL to send to
    """
    return _all_headers(vetting.parse_url(url), body, headers)


class _Connection:
    """A connection to one of the vetted addresses of a host, with the host's name in TLS and in the Host header."""

    def __init__(self, target: VettedUrl, connect: float, ends_at: float) -> None:
        self.target = target
        self.connect_seconds = connect
        self.ends_at = ends_at
        self.created_at = time.monotonic()
        self.sock: Any = None

    def connect(self) -> None:
        """Connect to the first address that accepts, within the connection timeout."""
        last_error: OSError | None = None
        connect_until = time.monotonic() + self.connect_seconds
        for address in self.target.addresses:
            seconds = min(connect_until, self.ends_at) - time.monotonic()
            if seconds <= 0:
                break
            try:
                self.sock = _connect(address, self.target.port, seconds)
            except OSError as error:
                last_error = error
            else:
                self._start_tls()
                return
        raise last_error or TimeoutError

    def close(self) -> None:
        """Close the connection, unless it is closed."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _start_tls(self) -> None:
        if self.target.scheme != "https":
            return
        self.sock = _tls.wrap_socket(self.sock, server_hostname=self.target.host, do_handshake_on_connect=False)
        with _watcher.watch(self.sock, self.ends_at):
            self.sock.do_handshake()


def _connect(address: str, port: int, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect((address, port))
    except OSError:
        connection.close()
        raise
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@dataclass(frozen=True)
class _Exchange:
    response: HttpResponse
    is_reusable: bool


def _send_request(
    connection: _Connection, target: VettedUrl, body: bytes, headers: Mapping[str, str], ends_at: float, max_bytes: int
) -> _Exchange | None:
    """Send a request and read its response; None when an idle connection was closed before it answered."""
    is_reused = connection.sock is not None
    connection.ends_at = ends_at
    response = None
    try:
        if not is_reused:
            connection.connect()
        with _watcher.watch(connection.sock, ends_at):
            connection.sock.settimeout(max(0.001, ends_at - time.monotonic()))
            connection.sock.sendall(_request(target, body, headers))
            answer = http.client.HTTPResponse(connection.sock, method="POST")
            answer.begin()
            response = answer
            excerpt = response.read(max_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        if time.monotonic() >= ends_at or isinstance(error, TimeoutError):
            raise DeadlineExceeded(_TIMEOUT_MESSAGE) from error
        if is_reused and response is None:
            return None
        raise ConnectionFailed(_error_text(error)) from error
    if time.monotonic() >= ends_at:  # the watcher's shutdown of the socket looks like the end of the response
        connection.close()
        raise DeadlineExceeded(_TIMEOUT_MESSAGE)
    is_reusable = response.isclosed() and not response.will_close
    if not is_reusable:
        connection.close()
    return _Exchange(HttpResponse(response.status, dict(response.headers.items()), excerpt), is_reusable)


def _request(target: VettedUrl, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole request, which leaves in one packet when it is small.

    raises: ValueError for a header with a line break
    """
    lines = [f"{name}: {value}" for name, value in _all_headers(target, body, headers).items()]
    if not all(line.isprintable() for line in lines):
        raise ValueError("A header has characters that end it.")
    return "\r\n".join([f"POST {target.path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def _all_headers(target: VettedUrl, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    host = f"[{target.host}]" if ":" in target.host else target.host
    port = "" if target.port == _DEFAULT_PORTS[target.scheme] else f":{target.port}"
    return {"Host": host + port, "Accept-Encoding": "identity", "Content-Length": str(len(body)), **headers}


def _error_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate is not valid: {error.verify_message}"[:200]
    return (str(error) or type(error).__name__)[:200]


@dataclass
class _IdlePool:
    """Idle connections by target; each is reused for IDLE_SECONDS, after which its address must be vetted again."""

    connections: dict[Any, list[_Connection]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cleared_at: float = 0.0

    def take(self, key: Any) -> _Connection | None:
        """Remove and return a connection that may still be used; None when there is none."""
        with self.lock:
            idle = self.connections.get(key, [])
            while idle:
                connection = idle.pop()
                if time.monotonic() - connection.created_at < IDLE_SECONDS:
                    return connection
                connection.close()
            return None

    def put(self, key: Any, connection: _Connection, exchange: _Exchange) -> None:
        """Keep a connection whose response was read to its end."""
        if not exchange.is_reusable:
            return
        with self.lock:
            self._close_expired()
            idle = self.connections.setdefault(key, [])
            if len(idle) < IDLE_CONNECTIONS and self._count() < IDLE_CONNECTIONS_TO_ALL:
                idle.append(connection)
                return
        connection.close()

    def _count(self) -> int:
        return sum(map(len, self.connections.values()))

    def _close_expired(self) -> None:
        """Close expired connections, at most once in IDLE_SECONDS, because there may be many targets."""
        now = time.monotonic()
        if now < self.cleared_at + IDLE_SECONDS:
            return
        self.cleared_at = now
        for key, idle in list(self.connections.items()):
            usable = [connection for connection in idle if now - connection.created_at < IDLE_SECONDS]
            for connection in set(idle).difference(usable):
                connection.close()
            self.connections[key] = usable
            if not usable:
                del self.connections[key]


def _shut_down(watched: socket.socket) -> None:
    try:
        socket.socket.shutdown(watched, socket.SHUT_RDWR)  # below TLS, so that a reader sees the end of the stream
    except OSError:
        return


class DeadlineWatcher:
    """A thread that shuts sockets down at their deadlines, which no timeout of a single read can do."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[float, socket.socket]] = {}
        self._wakes_at = math.inf
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, watched: socket.socket, ends_at: float) -> "_WatchedSocket":
        """Shut a socket down at a deadline, unless the `with` block has ended before."""
        with self._changed:
            number = next(self._numbers)
            self._watched[number] = ends_at, watched
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            if ends_at < self._wakes_at:  # deadlines rise, so hardly a request wakes the thread
                self._changed.notify()
        return _WatchedSocket(self, number)

    def unwatch(self, number: int) -> None:
        """Forget a socket."""
        with self._changed:
            self._watched.pop(number, None)

    def _run(self) -> None:
        while True:
            for watched in self._wait():
                _shut_down(watched)

    def _wait(self) -> list[socket.socket]:
        """Sockets whose deadline has passed, or none after a wait until the next one."""
        with self._changed:
            now = time.monotonic()
            late = [number for number, (ends_at, _) in self._watched.items() if ends_at <= now]
            if late:
                return [self._watched.pop(number)[1] for number in late]
            self._wakes_at = min((ends_at for ends_at, _ in self._watched.values()), default=math.inf)
            self._changed.wait(None if math.isinf(self._wakes_at) else self._wakes_at - now)
            return []


@dataclass
class _WatchedSocket:
    watcher: DeadlineWatcher
    number: int

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.watcher.unwatch(self.number)


_watcher = DeadlineWatcher()
_idle = _IdlePool()
