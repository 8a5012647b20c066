"""What the processes of the product have consumed."""

import contextlib
from dataclasses import dataclass

import psutil
from flask import Flask
from sqlalchemy import text

from saas_api.core.db.engine import db
from tests.support import web_server
from tests.support.web_server import WebServer


@dataclass(frozen=True)
class Consumption:
    """CPU time of the processes of PostgreSQL and of the web since they started, and the web's resident memory."""

    database_seconds: float
    web_seconds: float
    web_bytes: int


def read_consumption(app: Flask, server: WebServer) -> Consumption:
    """What has been consumed so far; the processes must not end between two calls."""
    with app.app_context(), db.engine.connect() as connection:
        database = [psutil.Process(pid) for pid in connection.scalars(text("SELECT pid FROM pg_stat_activity"))]
    web = web_server.process_of(server).children()
    return Consumption(
        database_seconds=sum(map(_cpu_seconds, database)),
        web_seconds=sum(map(_cpu_seconds, web)),
        web_bytes=sum(process.memory_info().rss for process in web),
    )


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
