"""Servers for tests of the HTTP client: raw bytes and keep-alive."""

import http.server
import socket
import threading
from collections.abc import Callable
from typing import Any


class Listener:
    """A TCP server that counts connections and answers with raw bytes."""

    def __init__(self, respond: Callable[[socket.socket], None] = lambda _: None) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.connections = 0
        self.respond = respond
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.respond(connection)
            except OSError:
                return

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


class KeepAliveHandler(http.server.BaseHTTPRequestHandler):
    """Answers every request and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
