"""What an accepted send consists of: CPU of the application's parts, sampled while one thread calls it.

The application is called as a web server calls it, without a server: its sockets and threads are not in the figures.
"""

import contextlib
import io
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import click
from flask import Flask
from werkzeug.test import EnvironBuilder

from bench import report
from bench.application import running_application
from tests.support.accounts import create_key, sign_up
from tests.support.messages import SEND, SMS

CALLS, WARM_UP_CALLS = 5_000, 500
_SAMPLE_SECONDS = 0.001
PARTS = {
    "limits, with the round trip to Redis": r"/core/limits/|/metering/limits|/flask_limiter/|/limits/|/redis/",
    "write, with the round trip to PostgreSQL": r"/core/db/|/psycopg2/|/sqlalchemy/|/flask_sqlalchemy/",
    "credential, permission and headers of limits": r"/gate/|/api_keys/|/core/access|/core/crypto|/key_principals",
    "JSON and checks of body and answer": r"/web/(endpoint|http)|/marshmallow/|/messages/(content|common|schemas)",
    "message and usage: what is to be written": r"/messages/|/metering/|/services/",
    "request and response of Flask and Werkzeug": r"/flask/|/werkzeug/",
    "hooks before and after each request": r"/core/web/|/core/request_context|/structlog/",
    "waking a worker": r"/core/jobs/",
}
"""Parts by the files of which they consist; a function of another file belongs to the caller that is in one."""
OTHER = "other"
_PATTERNS = {part: re.compile(pattern) for part, pattern in PARTS.items()}


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Call the application some thousand times, and print a table of its parts.

    returns: cpu_us of a call, and of it that of each part
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    with running_application(**settings) as app, report.progress("budget", 2) as bar:
        client = app.test_client()
        _, key = create_key(client, sign_up(client))
        bar.update(1, "warm-up")
        _call(app, key, WARM_UP_CALLS)
        bar.update(1, "calls")
        with sampling() as samples:
            started_at = time.thread_time()
            _call(app, key, CALLS)
            cpu_us = (time.thread_time() - started_at) / CALLS * 1e6
    parts = {part: round(cpu_us * samples[part] / samples.total(), 1) for part, _ in samples.most_common()}
    results = {"calls": CALLS, "samples": samples.total(), "cpu_us": round(cpu_us, 1), "parts": parts}
    click.echo(table_of(results))
    return results


def table_of(results: Mapping[str, Any]) -> str:
    """A table of the parts, the largest first."""
    total = results["cpu_us"]
    rows = [(part, f"{us:.0f}", f"{us / total:.0%}") for part, us in results["parts"].items()]
    return report.table(("part", "CPU us", "share"), [*rows, ("together", f"{total:.0f}", "")])


def _call(app: Flask, headers: Mapping[str, str], count: int) -> None:
    """Send messages.

    raises: RuntimeError when one is not accepted
    """
    body = json.dumps({**SMS, "message": "Your code is 123456"}).encode()
    builder = EnvironBuilder(
        SEND, method="POST", data=body, content_type="application/json", headers=[*headers.items()]
    )
    environ = {**builder.get_environ(), "REMOTE_ADDR": "127.0.0.1"}
    statuses = Counter[str]()

    def start_response(status: str, *_: object) -> Any:
        statuses[status] += 1

    for _ in range(count):
        response = app(dict(environ, **{"wsgi.input": io.BytesIO(body)}), start_response)
        b"".join(response)
        response.close()  # type: ignore[attr-defined]  # as the server does for each that has it
    if statuses != {"202 ACCEPTED": count}:
        raise RuntimeError(f"{count} messages were sent, and answered with {dict(statuses)}")


@contextlib.contextmanager
def sampling() -> Iterator[Counter[str]]:
    """Count in which part the main thread is after each millisecond of CPU."""
    samples = Counter[str]()
    previous = signal.signal(signal.SIGPROF, lambda _signal, frame: samples.update([part_of(frame)]))
    signal.setitimer(signal.ITIMER_PROF, _SAMPLE_SECONDS, _SAMPLE_SECONDS)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def part_of(frame: FrameType | None) -> str:
    """The part of the innermost function that is in one."""
    while frame:
        for part, pattern in _PATTERNS.items():
            if pattern.search(frame.f_code.co_filename):
                return part
        frame = frame.f_back
    return OTHER
