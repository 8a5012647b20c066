"""A real server that receives webhooks: it remembers them, and can be slow, fail, cut the connection or be gone."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.time)

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """What it got, and what it answers: the first of `script` while there is any, then `status`."""

    status: int = 204
    seconds: float = 0.0
    script: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    is_cutting: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.webhook_id for one in self.received]

    def take(self, one: Received) -> int | None:
        """Remember a request; what to answer, or None to say nothing at all."""
        with self.lock:
            self.received.append(one)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            status = self.script.pop(0) if self.script else self.status
        time.sleep(self.seconds)
        with self.lock:
            self.at_once -= 1
        return None if self.is_cutting else status


class Server(ThreadingHTTPServer):
    """Many connections at once, and no noise about those that are cut."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(Received(self.path, headers, body))
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
            """Say nothing."""

    return Handler


@contextmanager
def receiving(**behaviour: Any) -> Iterator[Receiver]:
    """A receiver that listens for the length of a `with` block."""
    receiver = Receiver(**behaviour)
    with Server(("127.0.0.1", 0), _handler(receiver)) as server:
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield receiver
        server.shutdown()


def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something, or fail."""
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.02)
