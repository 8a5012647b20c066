"""CPU time of groups of processes, read from the kernel."""

import contextlib
from dataclasses import dataclass
from typing import Self

import psutil
import redis
from flask import Flask
from sqlalchemy import text

from saas_api.core.db.engine import db
from tests.support import web_server
from tests.support.web_server import WebServer


@dataclass(frozen=True)
class Consumption:
    """CPU seconds, user and system, of each group of processes since they started, and the web's resident memory."""

    web_seconds: float
    database_seconds: float
    redis_seconds: float
    web_bytes: int

    def __sub__(self, earlier: Self) -> "Consumption":
        return Consumption(
            self.web_seconds - earlier.web_seconds,
            self.database_seconds - earlier.database_seconds,
            self.redis_seconds - earlier.redis_seconds,
            self.web_bytes - earlier.web_bytes,
        )


class Engines:
    """The main processes of the PostgreSQL and the Redis of an application."""

    def __init__(self, app: Flask) -> None:
        with app.app_context(), db.engine.connect() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
        self.postgres = psutil.Process(psutil.Process(backend).ppid())
        with redis.Redis.from_url(app.config["REDIS_URL"]) as client:
            self.redis = psutil.Process(client.info("server")["process_id"])

    def read_with(self, server: WebServer) -> Consumption:
        """What the engines and a web server have consumed so far."""
        web = web_server.process_of(server)
        return Consumption(
            web_seconds=tree_seconds(web),
            database_seconds=tree_seconds(self.postgres),
            redis_seconds=tree_seconds(self.redis),
            web_bytes=sum(process.memory_info().rss for process in web.children()),
        )


def tree_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and of its descendants, with those that have ended."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
