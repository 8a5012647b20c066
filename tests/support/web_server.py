"""The web as it is served, in a process of its own, and clients that write raw bytes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from saas_api.core.settings import ROOT
from tests.support import forks, ports

START_SECONDS = 60


class WebServer:
    """A web server with one web process."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    def connect(self, source: str = "127.0.0.1", host: str = "127.0.0.1") -> socket.socket:
        """Open a connection from a loopback address."""
        return socket.create_connection((host, self.port), 10, (source, 0))

    def get(self, path: str, *headers: str, source: str = "127.0.0.1") -> bytes:
        """Send a GET request on a connection of its own and return the whole response."""
        with self.connect(source) as connection:
            connection.sendall(request("GET", path, "Connection: close", *headers))
            return read_all(connection)

    def kill_worker(self) -> int:
        """Kill the web process and return its process id."""
        [worker] = process_of(self).children()
        os.kill(worker.pid, signal.SIGKILL)
        return int(worker.pid)


def process_of(server: WebServer) -> psutil.Process:
    """The main process, which owns the listening sockets."""
    return psutil.Process(server.process.pid)


def request(method: str, path: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def read_response(connection: socket.socket) -> bytes:
    """One response with a Content-Length, on a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += _receive(connection)
    return head + b"\r\n\r\n" + body


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    assert data, "the server closed the connection"
    return data


def start(config: dict[str, Any], log: Path, **settings: str) -> WebServer:
    """Start the web with changed settings; its output goes to a file."""
    port = ports.free_port()
    values = {**forks.engines_of(config), "API_PORT": port, "WEB_CONCURRENCY": 1, **settings}
    environment = {**os.environ, **{name: str(value) for name, value in values.items()}}
    command = [sys.executable, "serve.py"]
    with log.open("wb") as output:
        return WebServer(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output), port)


@contextlib.contextmanager
def serve(config: dict[str, Any], directory: Path, **settings: str) -> Iterator[WebServer]:
    """Serve the web with changed settings until the end of the block."""
    log = directory / "web.log"
    server = start(config, log, **settings)
    try:
        wait_until_served(server, log)
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM if settings.get("SERVER") == "granian" else signal.SIGQUIT)
        server.process.wait(30)


def wait_until_served(server: WebServer, log: Path | None = None) -> None:
    """Wait until the web answers."""
    ends_at = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if server.get("/healthz").startswith(b"HTTP/1.1 200"):
                return
        assert server.process.poll() is None, log.read_text() if log else "the web ended"
        assert time.monotonic() < ends_at, log.read_text() if log else "no response"
        time.sleep(0.05)
