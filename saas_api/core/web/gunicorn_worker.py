"""The worker of gunicorn: threads that read and write under deadlines, and few of them in the application at a time.

A connection has a thread while a request is read and its response is sent, so a slow client delays only itself. The
application gets requests that are complete and hands over responses that are complete; it never waits for a client.
"""

import contextlib
import functools
import ipaddress
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from flask import Flask
from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from saas_api.core.errors import ApiError, BadRequest, HeadersTooLarge, RequestTimeout, TooManyRequests, UriTooLong
from saas_api.core.web import serving

SEND_SECONDS = 60
"""How long a client may take to receive a piece of a response."""
_ERRORS: dict[type[Exception], type[ApiError]] = {
    http_errors.LimitRequestLine: UriTooLong,
    http_errors.LimitRequestHeaders: HeadersTooLarge,
    http_errors.ParseException: BadRequest,
}


class DeadlineReader(SocketUnreader):  # type: ignore[misc]  # gunicorn is untyped
    """Reads a socket until a wall-clock deadline, however often a byte arrives."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.begin_request(0)

    def begin_request(self, seconds: float) -> None:
        """Set the time for the head of the next request."""
        self.first_bytes = b""
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Set the time for what is read from now on."""
        self._deadline = time.monotonic() + seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes; none at the deadline when no byte of the request has arrived.

        raises: RequestTimeout at the deadline in the middle of a request
        """
        try:
            # at the deadline what has arrived is still read, and nothing is waited for
            _set_timeout(self.sock, socket.SO_RCVTIMEO, max(self._deadline - time.monotonic(), 0.001))
            data: bytes = super().chunk(size_hint)
        except BlockingIOError:
            if self.first_bytes or self.buf.tell():
                raise RequestTimeout from None
            return b""
        self.first_bytes = self.first_bytes or data
        return data


class Connection(TConn):  # type: ignore[misc]  # gunicorn is untyped
    """A client's connection."""

    def __init__(self, cfg: Any, sock: Any, client: Any, server: Any, on_close: Callable[[], None]) -> None:
        super().__init__(cfg, sock, client, server)
        self.data_ready = True  # the deadline covers the wait for the first byte too
        self.reader = DeadlineReader(sock)
        self._on_close: Callable[[], None] | None = on_close

    def init(self) -> None:
        super().init()
        _set_timeout(self.sock, socket.SO_SNDTIMEO, SEND_SECONDS)
        self.parser.unreader = self.reader

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - `Worker.handle` has waited for the client
        """Close the socket."""
        util.close(self.sock)
        if self._on_close:
            self._on_close()
            self._on_close = None


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's worker with threads, with deadlines for clients and a limit of connections of one address."""

    wsgi: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = threading.BoundedSemaphore(self.cfg.threads)
        self._open_by_address: Counter[str] = Counter()
        self._current = threading.local()

    def get_thread_pool(self) -> futures.ThreadPoolExecutor:
        return futures.ThreadPoolExecutor(max_workers=self.cfg.worker_connections)

    def load_wsgi(self) -> None:
        """Load the application, whose settings hold the limits."""
        super().load_wsgi()
        self.application: Flask = self.wsgi
        self._settings = self.application.config
        self.wsgi = self._call_application
        self._refusal = self._render_error(TooManyRequests("Too many connections from your address."), is_json=True)

    def accept(self, listener: Any) -> None:
        """Accept a connection, or refuse it when its address has too many."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client = (serving.unwrap_address(address[0]), *address[1:2])
        counted_as = _count_key(client[0])
        is_full = self._open_by_address[counted_as] >= self._settings["CONNECTIONS_PER_ADDRESS"]
        if is_full and not self._is_proxy(client[0]):
            with contextlib.suppress(OSError):  # the client may be gone
                sock.setblocking(False)
                sock.send(self._refusal)
            util.close(sock)
            return
        self.nr_conns += 1
        self._open_by_address[counted_as] += 1
        on_close = functools.partial(self._count_closed, counted_as)
        self.enqueue_req(Connection(self.cfg, sock, client, listener.getsockname(), on_close))

    def _count_closed(self, counted_as: str) -> None:
        self._open_by_address[counted_as] -= 1
        if not self._open_by_address[counted_as]:
            del self._open_by_address[counted_as]

    def _is_proxy(self, address: str) -> bool:
        networks = self.cfg.forwarded_allow_networks()
        return any(ipaddress.ip_address(address) in network for network in networks)

    def enqueue_req(self, conn: Connection) -> None:
        """Give a connection a thread; the deadline of the head begins."""
        conn.reader.begin_request(self._settings["REQUEST_HEAD_SECONDS"])
        super().enqueue_req(conn)

    def handle(self, conn: Connection) -> Any:
        """Handle a request. When it is the last one, wait until the client has its response.

        gunicorn itself waits in the event loop, where one client stops all others for two seconds.
        """
        self._current.connection = conn
        is_kept = super().handle(conn)
        if not is_kept:
            util.close_graceful(conn.sock)
        return is_kept

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Handle a request whose head is read; the deadline of the body begins."""
        conn.reader.allow(self._settings["REQUEST_BODY_SECONDS"])
        try:
            return super().handle_request(req, conn)
        except BlockingIOError as error:  # the client does not receive its response
            raise StopIteration from error

    def _call_application(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        """Read the body, call the application when it has room, and keep its response until the client has it."""
        environ["wsgi.input"] = serving.read_request(environ)
        with self._places:
            body = serving.collect_response(self.application(environ, start_response))
        return serving.iter_and_close(body)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's
        """Answer a request that cannot be read, as the application would: JSON below /api/ and where it is accepted."""
        error = exc if isinstance(exc, ApiError) else _to_api_error(exc)
        if error.status >= 500:
            self.log.error("Error handling a request", exc_info=exc)
        first_bytes = self._current.connection.reader.first_bytes
        try:
            util.write_nonblock(client, self._render_error(error, is_json=_wants_json(first_bytes)))
        except OSError:
            self.log.debug("The client of a failed request is gone")

    def _render_error(self, error: ApiError, *, is_json: bool) -> bytes:
        status, headers, body = serving.render_error(self.application, error, is_json=is_json)
        head = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + body


def _set_timeout(sock: Any, option: int, seconds: float) -> None:
    """Let the kernel end a call of a blocking socket. `settimeout` would give up the interpreter once more a call."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))


def _count_key(address: str) -> str:
    """What connections are counted by: an IPv4 address, or an IPv6 network of /64, which one client has to itself."""
    return str(ipaddress.ip_network((address, 64), strict=False)) if ":" in address else address


def _to_api_error(error: Exception) -> ApiError:
    return next((kind() for cause, kind in _ERRORS.items() if isinstance(error, cause)), ApiError())


def _wants_json(first_bytes: bytes) -> bool:
    parts = first_bytes.split(b" ", 2)
    return (len(parts) > 1 and parts[1].startswith(b"/api/")) or b"application/json" in first_bytes
