"""A proxy that answers 503, or cuts the connection before or after the platform has done its work."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

Fault = int | str
"""A status; or "cut before" or "cut after" the platform gets the request."""


@dataclass
class UnreliableProxy:
    """`script` has the faults of the next requests; then requests pass, or `always` happens.

    headers: of the answers with a status
    """

    url: str
    script: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def next_fault(self) -> Fault | None:
        """Return what happens to the next request."""
        return self.script.pop(0) if self.script else self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def run_proxy(target: str) -> Iterator[UnreliableProxy]:
    """Run a proxy until the end of the block."""
    with httpx.Client(base_url=target) as upstream:
        proxy = UnreliableProxy("")
        with _Server(("127.0.0.1", 0), _handler(proxy, upstream)) as server:
            proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            yield proxy
            server.shutdown()


def _pass_on(
    upstream: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body as it was sent, compressed or not."""
    passed = {name: value for name, value in headers.items() if name not in ("host", "connection")}
    with upstream.stream(method, path, headers=passed, content=body) as response:
        return response.status_code, dict(response.headers), b"".join(response.iter_raw())


def _handler(proxy: UnreliableProxy, upstream: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.requests.append((f"{self.command} {self.path}", headers, body))
            fault = proxy.next_fault()
            if fault == "cut before":
                self.cut()
            elif isinstance(fault, int):
                self.answer(fault, proxy.headers, b"<html>a page of a proxy</html>")
            else:
                answer = _pass_on(upstream, self.command, self.path, headers, body)
                if fault == "cut after":
                    self.cut()
                else:
                    self.answer(*answer)

        do_GET = do_POST  # noqa: N815 - the name that the server calls

        def cut(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    return Handler
