"""Versions, database, settings."""

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
from sqlalchemy.orm import Session

from saas_api.admin import context
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.engine import db
from saas_api.core.jobs import queue
from saas_api.core.settings import ROOT, setting
from saas_api.core.web import pages

bp = Blueprint("system", __name__, url_prefix="/admin")

_LIBRARIES = ("flask", "sqlalchemy", "psycopg2-binary", "redis", "rq", "rq-scheduler", "marshmallow", "gunicorn")
_SECRET = re.compile(r"SECRET|PASSWORD|PEPPER|TOKEN|_KEY$")
_OTHER_SECRETS = ("SQLALCHEMY_", "RATELIMIT_", "JWT_", "SWAGGER", "SETTINGS", "LOGIN_ENDPOINT")
"""Beginnings of what libraries and the factory keep among the settings."""
_DATABASE = sa.text("""
SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size_bytes,
  (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
  current_setting('max_connections')::int AS most_connections, clock_timestamp() AS at
""")
_RESET_ROLE = sa.text("SELECT set_config('role', 'none', true)")
_HEAD = sa.text("SELECT version_num FROM alembic_version")


@dataclass(frozen=True)
class PostgresInfo:
    """PostgreSQL.

    head: the migration it stands at
    ahead_seconds: of its clock before ours
    """

    version: str
    head: str | None
    size_bytes: int
    connections: int
    most_connections: int
    ahead_seconds: float


@dataclass(frozen=True)
class RedisInfo:
    """Redis.

    policy: what it does when its memory is full
    is_kept: whether what it holds survives its restart
    """

    version: str
    used_bytes: int
    policy: str
    is_kept: bool
    ahead_seconds: float


@dataclass(frozen=True)
class SettingRow:
    """A setting as operators may read it."""

    name: str
    value: str


def get_postgres_info(session: Session) -> PostgresInfo:
    """PostgreSQL as it is now."""
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
    """Read as who signed in to the database: this table is neither a tenant's nor the system's."""
    with db.engine.connect() as connection:
        connection.execute(_RESET_ROLE)
        found: str | None = connection.scalar(_HEAD)
    return found


def get_redis_info() -> RedisInfo | None:
    """Redis as it is now; None when it does not answer."""
    with closing(queue.worker_redis()) as connection:
        try:
            about: dict[str, Any] = connection.info()
            seconds, microseconds = connection.time()
            policy = connection.config_get("maxmemory-policy").get("maxmemory-policy", "unknown")
        except redis.RedisError:
            return None
    ahead = seconds + microseconds / 1_000_000 - time.time()
    is_kept = bool(about.get("aof_enabled"))
    return RedisInfo(about["redis_version"], about["used_memory"], str(policy), is_kept, round(ahead, 1) + 0.0)


def head_migration() -> str | None:
    """The migration that this code wants; None where its files are not at hand."""
    names = sorted(path.stem for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0] if names else None


def list_versions() -> list[tuple[str, str]]:
    """Python and the libraries that matter here."""
    return [("python", platform.python_version()), *((name, version(name)) for name in _LIBRARIES)]


def get_disk_usage(path: str) -> tuple[int, int]:
    """Bytes that are used and that there are, of the disk that holds a path."""
    usage = shutil.disk_usage(path if Path(path).exists() else "/")
    return usage.total - usage.free, usage.total


def list_settings(config: Mapping[str, Any], known: Mapping[str, Any]) -> list[SettingRow]:
    """The product's settings by name; a secret says only whether it is set.

    known: what the framework keeps among them
    """
    own = {"SECRET_KEY", "JWT_SECRET", *config} - set(known) | {"SECRET_KEY"}
    names = [name for name in own if name == "JWT_SECRET" or not name.startswith(_OTHER_SECRETS)]
    return [SettingRow(name, _masked_value(name, config.get(name))) for name in sorted(names)]


def _masked_value(name: str, value: Any) -> str:
    if value in (None, "", []):
        return "not set"
    if _SECRET.search(name):
        return "set, hidden"
    if name.endswith("_URL") and urlsplit(str(value)).password:
        return _without_password(str(value))
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(one) for one in value)
    return str(value)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    rest = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:[hidden]@{rest}").geturl()


@bp.get("/system")
@require_operator("support")
def index() -> Response:
    """Versions, migrations, clocks, disk and settings."""
    with context.read_session() as session:
        database = get_postgres_info(session)
    used, whole = get_disk_usage(setting("INSTANCE"))
    shown: dict[str, Any] = {
        "database": database,
        "cache": get_redis_info(),
        "newest": head_migration(),
        "versions": list_versions(),
        "settings": list_settings(current_app.config, Flask.default_config),
        "now": clock.now(),
    }
    return pages.render_page("admin/system.html", used=used, whole=whole, **shown)
