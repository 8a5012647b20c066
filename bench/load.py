"""Load on web servers: callers in threads, and a server of the view that does nothing."""

import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import web_server
from tests.support.web_server import WebServer

WEB_PROCESSES = 2


def call_in_parallel(
    seconds: float, connections: int, open_caller: Callable[[], Callable[[], int]]
) -> tuple[int, float]:
    """Call from several threads until the time is over; returns the sum of the results and the elapsed time."""
    started_at = time.perf_counter()
    totals, errors = [0] * connections, list[Exception]()

    def call_repeatedly(thread: int) -> None:
        try:
            call = open_caller()
            while time.perf_counter() < started_at + seconds:
                totals[thread] += call()
        except Exception as error:  # noqa: BLE001 - raised below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=call_repeatedly, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(totals), time.perf_counter() - started_at


@contextlib.contextmanager
def running_no_op() -> Iterator[WebServer]:
    """Serve `bench.noop` with as many processes and threads as the product, until the end of the block."""
    port = web_server.free_port()
    command = [sys.executable, "-m", "gunicorn", "noop:app"]
    command += ["--worker-class", "gthread", "--threads", "8"]
    command += ["--workers", str(WEB_PROCESSES), "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    # The product's own gunicorn.conf.py is not in this folder.
    process = subprocess.Popen(command, cwd=Path(__file__).parent)  # noqa: S603 - a command of our own
    server = WebServer(process, port)
    try:
        web_server.wait_until_served(server)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)


def open_caller(server: WebServer, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], bytes]:
    """A function that sends one POST request on a connection of its own and returns the body of the answer.

    It raises RuntimeError for a status other than 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port)

    def call() -> bytes:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:200]!r}")
        return answer

    return call
