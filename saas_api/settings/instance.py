"""Directories and addresses of the embedded engines of an instance, and the secrets it generates."""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path

DATABASE_NAME = "saas"
DATABASE_OWNER, DATABASE_LOGIN = "saas", "saas_app"
"""The login that owns the tables and migrates, and the one that the processes use."""
MAX_SOCKET_PATH_LENGTH = 103
GENERATED_SECRETS = ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


def engine_directory(instance: Path) -> Path:
    """Directory of the engines: the instance, or one below /var/lib when root runs it and `nobody` cannot reach it."""
    instance = instance.absolute()
    if os.geteuid() == 0 and not is_traversable(instance):
        return Path("/var/lib/saas_api") / short_hash(instance)
    return instance


def socket_directory(instance: Path) -> Path:
    """Directory of both sockets: a shorter path than the instance's when the kernel's limit requires it."""
    run = engine_directory(instance) / "run"
    if len(str(run / ".s.PGSQL.5432")) <= MAX_SOCKET_PATH_LENGTH:
        return run
    base = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else None
    return Path(base or tempfile.gettempdir()) / f"saas_api-{os.geteuid()}-{short_hash(instance)}"


def engine_urls(instance: Path) -> tuple[str, str]:
    """URLs of PostgreSQL and Redis, for SQLAlchemy and redis-py, whether or not they run."""
    return _database_url(instance, DATABASE_LOGIN), f"unix://{_quoted_socket_directory(instance)}/redis.sock"


def owner_database_url(instance: Path) -> str:
    """URL of PostgreSQL for the login that owns the tables."""
    return _database_url(instance, DATABASE_OWNER)


def _database_url(instance: Path, login: str) -> str:
    return f"postgresql+psycopg2://{login}@/{DATABASE_NAME}?host={_quoted_socket_directory(instance)}"


def _quoted_socket_directory(instance: Path) -> str:
    run = str(socket_directory(instance))
    return run.replace("%", "%25").replace(" ", "%20").replace("&", "%26").replace("#", "%23")


def embedded_engines(instance: Path, database_url: str, redis_url: str) -> tuple[str, ...]:
    """Names of the engines ("postgres", "redis") that the settings do not place elsewhere.

    database_url, redis_url: the settings
    """
    embedded_urls = dict(zip(("postgres", "redis"), engine_urls(instance), strict=True))
    urls = {"postgres": database_url, "redis": redis_url}
    return tuple(name for name, url in embedded_urls.items() if urls[name] == url)


def is_traversable(path: Path) -> bool:
    """Whether every user may traverse the existing ancestors of a path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents if parent.exists())


def short_hash(path: Path) -> str:
    """Eight hex digits that identify an instance by its path."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]


def load_or_create_secrets(instance: Path) -> dict[str, str]:
    """The secrets of an instance, by the names of their settings; generated once."""
    path = instance / "secrets.json"
    if not path.exists():
        instance.mkdir(mode=0o755, exist_ok=True)
        generated = {name: secrets.token_hex(32) for name in GENERATED_SECRETS}
        generated["API_KEY_PEPPER"] = f"1:{generated['API_KEY_PEPPER']}"
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(generated), encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return dict(json.loads(path.read_text(encoding="utf-8")))
