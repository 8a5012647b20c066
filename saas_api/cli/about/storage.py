"""Whether what the product stands on is there and as it needs it: PostgreSQL, its roles and tables, Redis, disk."""

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from saas_api.cli.about.findings import FAIL, OK, WARN, Finding, judged
from saas_api.cli.dev.addresses import home, wanted_engines
from saas_api.core import queue
from saas_api.core.db import db
from saas_api.core.settings import setting
from saas_api.core.tenancy import UnsafeDatabase, boot_check

OLDEST_POSTGRES, NEWEST_POSTGRES, OLDEST_REDIS = 14, 18, (6, 2)
LITTLE_BYTES, TOO_LITTLE_BYTES = 1_000_000_000, 200_000_000
_START = "make run starts it here; elsewhere look at {}."


def settings() -> Iterator[Finding]:
    """Settings that let the product start and are still not what a place of its kind should have."""
    place = setting("APP_ENV")
    if place != "production":
        yield Finding("settings", OK, f"APP_ENV={place}; {setting('APP_URL')}")
        return
    has_provider = setting("STRIPE_SECRET_KEY") or setting("PAYSTACK_SECRET_KEY")
    url = str(setting("APP_URL"))
    yield judged(
        "settings",
        f"APP_ENV=production; {url}",
        (not url.startswith("https://"), WARN, f"APP_URL={url} is not encrypted", "Set APP_URL to its https address."),
        (not setting("SMTP_HOST"), WARN, "mail reaches nobody", "Set SMTP_HOST; until then it stays in instance/mail."),
        (
            bool(setting("PAYMENTS_ALLOW_MOCK")),
            WARN,
            "invoices can be paid with play money",
            "Unset PAYMENTS_ALLOW_MOCK.",
        ),
        (not has_provider, WARN, "nobody can pay", "Set STRIPE_SECRET_KEY or PAYSTACK_SECRET_KEY."),
    )


def postgres() -> Finding:
    """Whether PostgreSQL answers, and which it is."""
    try:
        with db.engine.connect() as connection:
            number = int(str(connection.scalar(sa.text("SHOW server_version_num"))))
    except SQLAlchemyError as error:
        return Finding("PostgreSQL", FAIL, _reason(error), _START.format("DATABASE_URL"))
    major = number // 10_000
    return judged(
        "PostgreSQL",
        f"version {major}.{number % 10_000}",
        (major < OLDEST_POSTGRES, FAIL, f"version {major} is too old", f"Use {OLDEST_POSTGRES} to {NEWEST_POSTGRES}."),
        (
            major > NEWEST_POSTGRES,
            WARN,
            f"version {major} was never tried",
            f"Use {OLDEST_POSTGRES} to {NEWEST_POSTGRES}.",
        ),
    )


def roles() -> Finding:
    """Whether the database keeps organizations apart."""
    try:
        boot_check()
    except UnsafeDatabase as error:
        return Finding("roles", FAIL, str(error), "compose.yaml shows how the login and both roles are made.")
    except SQLAlchemyError as error:
        return Finding("roles", FAIL, _reason(error), "Bring the tables up: flask db upgrade.")
    return Finding("roles", OK, "a forgotten filter shows no row")


def migrations() -> Finding:
    """Whether the tables are those this code expects."""
    directory = Path(current_app.root_path).parent / "migrations"
    head = ScriptDirectory(str(directory)).get_current_head()
    with db.engine.connect() as connection:
        connection.execute(sa.text("SET LOCAL ROLE NONE"))  # neither role of the application reads that table
        current = MigrationContext.configure(connection).get_current_revision()
    wrong = f"the tables are of revision {current or 'none'}, the code expects {head}"
    return judged("migrations", f"revision {current}", (current != head, FAIL, wrong, "Run flask db upgrade."))


def cache() -> Finding:
    """Whether Redis answers, and would keep what it is given."""
    try:
        with queue.patient_client() as client:
            found: dict[str, Any] = {**client.info("server"), **client.info("memory"), **client.info("persistence")}
    except redis.RedisError as error:
        return Finding("Redis", FAIL, str(error), _START.format("REDIS_URL"))
    number = str(found["redis_version"])
    parts = tuple(int(part) for part in number.split(".")[:2])
    policy, is_kept = found.get("maxmemory_policy", "noeviction"), bool(found.get("aof_enabled"))
    return judged(
        "Redis",
        f"version {number}, {policy}, appends to a file",
        (parts < OLDEST_REDIS, FAIL, f"version {number} is too old", "Use 6.2 or later."),
        (policy != "noeviction", WARN, f"it forgets wake-ups ({policy})", "Set maxmemory-policy noeviction."),
        (not is_kept, WARN, "it loses wake-ups and limits when it ends", "Set appendonly yes."),
    )


def disk() -> Iterator[Finding]:
    """Whether there is room where the product writes."""
    instance = Path(setting("INSTANCE"))
    folders = {"disk": instance}
    if wanted_engines(instance, setting("DATABASE_URL"), setting("REDIS_URL")) and home(instance) != instance:
        folders["disk of the engines"] = home(instance)
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        left = f"{free / 1e9:.1f} GB free in {existing}"
        yield judged(
            name,
            left,
            (free < TOO_LITTLE_BYTES, FAIL, left, "Make room; PostgreSQL stops when there is none."),
            (free < LITTLE_BYTES, WARN, left, "Make room before it is gone."),
        )


def zone_data() -> str:
    """Which edition of the world's time zones Python reads."""
    return version("tzdata")


def _reason(error: SQLAlchemyError) -> str:
    return (str(getattr(error, "orig", error)).strip().splitlines() or ["no reason given"])[0]
