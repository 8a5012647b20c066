"""A server that receives and stores webhooks, and can be slow, hold its answers, fail or cut the connection."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MAX_HOLDING_SECONDS = 60.0


@dataclass(frozen=True)
class Received:
    """One received request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.time)

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """The received requests and the responses: the statuses of `script` in turn, then `status`.

    is_holding: no request is answered before `release`
    """

    status: int = 204
    seconds: float = 0.0
    script: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    is_cutting: bool = False
    is_holding: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [request.webhook_id for request in self.received]

    def release(self) -> None:
        """Answer the requests that are held, and all later ones at once."""
        self.released.set()

    def record(self, request: Received) -> int | None:
        """Store a request and return the status of its response, or None to cut the connection."""
        with self.lock:
            self.received.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            status = self.script.pop(0) if self.script else self.status
        time.sleep(self.seconds)
        if self.is_holding:
            self.released.wait(_MAX_HOLDING_SECONDS)
        with self.lock:
            self.at_once -= 1
        return None if self.is_cutting else status


class Server(ThreadingHTTPServer):
    """A server of concurrent connections that does not log those that are cut."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Log nothing."""


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.record(Received(self.path, headers, body))
            if status is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body if status != 204 else b"")

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    return Handler


@contextmanager
def run_receiver(**behaviour: Any) -> Iterator[Receiver]:
    """Run a receiver until the end of the block."""
    receiver = Receiver(**behaviour)
    with Server(("127.0.0.1", 0), _handler(receiver)) as server:
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield receiver
        finally:
            receiver.release()
            server.shutdown()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds, or fail."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "condition not met"
        time.sleep(0.02)
