"""What the platform runs on: engines, clocks, versions, disk, settings."""

import platform
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import sqlalchemy as sa
from flask import Blueprint, Flask, Response, current_app

from saas_api.admin import context
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.engine import db
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.jobs import queue
from saas_api.core.limits import limiter
from saas_api.core.settings import ROOT, setting
from saas_api.core.web import pages

bp = Blueprint("system", __name__, url_prefix="/admin")

_LIBRARIES = (
    "flask",
    "sqlalchemy",
    "psycopg2-binary",
    "redis",
    "rq",
    "rq-scheduler",
    "marshmallow",
    "gunicorn",
    "granian",
)
_SECRET = re.compile(r"SECRET|PASSWORD|PEPPER|TOKEN|_KEY$")
_FOREIGN_PREFIXES = (
    "SQLALCHEMY_",
    "RATELIMIT_",
    "JWT_",
    "SWAGGER",
    "SETTINGS",
    "LOGIN_ENDPOINT",
    "PROCESS",
)
"""Prefixes of names that libraries and the factory store in the configuration."""
_DATABASE = sa.text("""
SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size_bytes,
  (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
  current_setting('max_connections')::int AS most_connections, clock_timestamp() AS at
""")
_HEAD = sa.text("SELECT version_num FROM alembic_version")


@dataclass(frozen=True)
class PostgresInfo:
    """State of PostgreSQL.

    head: current migration
    ahead_seconds: its clock less the clock of this process
    """

    version: str
    head: str | None
    size_bytes: int
    connections: int
    most_connections: int
    ahead_seconds: float


@dataclass(frozen=True)
class RedisInfo:
    """State of Redis.

    policy: `maxmemory-policy`
    is_persistent: whether the append-only file is on
    """

    version: str
    used_bytes: int
    policy: str
    is_persistent: bool
    ahead_seconds: float


@dataclass(frozen=True)
class SettingRow:
    """A setting with its secret hidden."""

    name: str
    value: str


def get_postgres_info(session: SystemSession) -> PostgresInfo:
    """State of PostgreSQL now."""
    row = session.execute(_DATABASE).one()
    ahead = (row.at - datetime.now(UTC)).total_seconds()
    return PostgresInfo(
        row.version,
        _head(),
        row.size_bytes,
        row.connections,
        row.most_connections,
        round(ahead, 1) + 0.0,
    )


def _head() -> str | None:
    with db.engine.connect() as connection:
        head: str | None = connection.scalar(_HEAD)
    return head


def get_redis_info() -> RedisInfo | None:
    """State of Redis now; None when it does not answer."""
    with closing(queue.worker_redis()) as connection:
        try:
            info: dict[str, Any] = connection.info()
            seconds, microseconds = connection.time()
            policy = connection.config_get("maxmemory-policy").get("maxmemory-policy", "unknown")
        except redis.RedisError:
            return None
    ahead = seconds + microseconds / 1_000_000 - time.time()
    is_persistent = bool(info.get("aof_enabled"))
    return RedisInfo(info["redis_version"], info["used_memory"], str(policy), is_persistent, round(ahead, 1) + 0.0)


def head_migration() -> str | None:
    """The newest migration of this code; None where its files are not installed."""
    names = sorted(path.stem for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0] if names else None


def list_versions() -> list[tuple[str, str]]:
    """Versions of Python and of the main libraries."""
    return [("python", platform.python_version()), *((name, version(name)) for name in _LIBRARIES)]


def get_disk_usage(path: str) -> tuple[int, int]:
    """Used and total bytes of the disk that holds a path."""
    usage = shutil.disk_usage(path if Path(path).exists() else "/")
    return usage.total - usage.free, usage.total


def list_settings(config: Mapping[str, Any], known: Mapping[str, Any]) -> list[SettingRow]:
    """Settings of the product by name, with secrets hidden.

    known: configuration of the framework, which is left out
    """
    own = {"SECRET_KEY", "JWT_SECRET", *config} - set(known) | {"SECRET_KEY"}
    names = [name for name in own if name == "JWT_SECRET" or not name.startswith(_FOREIGN_PREFIXES)]
    return [SettingRow(name, _masked_value(name, config.get(name))) for name in sorted(names)]


def _masked_value(name: str, value: Any) -> str:
    if value in (None, "", []):
        return "not set"
    if _SECRET.search(name):
        return "set, hidden"
    if name.endswith("_URL") and urlsplit(str(value)).password:
        return _without_password(str(value))
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value)
    return str(value)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    rest = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:[hidden]@{rest}").geturl()


@bp.get("/system")
@require_operator("support")
def index() -> Response:
    """Show versions, migrations, clocks, disk and settings."""
    with context.read_session() as session:
        database = get_postgres_info(session)
    used, total = get_disk_usage(setting("INSTANCE"))
    values: dict[str, Any] = {
        "database": database,
        "redis": get_redis_info(),
        "limits_servers": limiter.find_own_servers(),
        "newest": head_migration(),
        "versions": list_versions(),
        "settings": list_settings(current_app.config, Flask.default_config),
        "now": clock.now(),
    }
    return pages.render_page("admin/system.html", used=used, total=total, **values)
