"""An HTTP server in place of a payment provider; Stripe and Paystack extend it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


class FakeProvider:
    """A provider that can fail, be slow, or process a request and lose its response."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failing_with: int | None = None
        self.seconds = 0.0
        self.is_losing_responses = False
        self.address = ""

    def process(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        raise NotImplementedError

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        self.calls.append((method, path, headers, body))
        time.sleep(self.seconds)
        if self.failing_with:
            return self.failing_with, {"status": False, "error": {"message": "unavailable", "type": "api_error"}}
        return self.process(method, path, headers, body)

    @contextmanager
    def running(self) -> Iterator["FakeProvider"]:
        """Serve until the end of the block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(fake: FakeProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, process = fake.respond(self.command, self.path, dict(self.headers), body)
            if fake.is_losing_responses:
                self.close_connection = True
                return
            raw = orjson.dumps(process)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = _serve  # noqa: N815 - the names http.server calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name http.server gives it
            """Log nothing."""

    return Handler
