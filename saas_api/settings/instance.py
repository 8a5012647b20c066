"""Where the embedded engines of an instance listen, and the secrets it generates; imported by config.py and cli/dev."""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path

DATABASE_LOGIN = "saas"
SOCKET_PATH_LIMIT = 103


def engine_directory(instance: Path) -> Path:
    """The directory the engines use: the instance's own, or one under /var/lib that `nobody` can reach."""
    instance = instance.absolute()
    if os.geteuid() == 0 and not is_traversable(instance):
        return Path("/var/lib/saas_api") / short_hash(instance)
    return instance


def socket_directory(instance: Path) -> Path:
    """The directory of both sockets, whose paths the kernel limits."""
    run = engine_directory(instance) / "run"
    if len(str(run / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
        return run
    base = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else None
    return Path(base or tempfile.gettempdir()) / f"saas_api-{os.geteuid()}-{short_hash(instance)}"


def engine_urls(instance: Path) -> tuple[str, str]:
    """Addresses of both engines as SQLAlchemy and redis-py read them, whether or not they run."""
    run = socket_directory(instance)
    quoted = str(run).replace("%", "%25").replace(" ", "%20").replace("&", "%26").replace("#", "%23")
    return f"postgresql+psycopg2://{DATABASE_LOGIN}@/{DATABASE_LOGIN}?host={quoted}", f"unix://{quoted}/redis.sock"


def embedded_engines(instance: Path, database_url: str, redis_url: str) -> tuple[str, ...]:
    """Which engines are the instance's own, rather than somewhere else.

    database_url, redis_url: the settings
    """
    own = dict(zip(("postgres", "redis"), engine_urls(instance), strict=True))
    given = {"postgres": database_url, "redis": redis_url}
    return tuple(name for name, url in own.items() if given[name] == url)


def is_traversable(path: Path) -> bool:
    """Whether everybody may pass through every existing ancestor of a path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents if parent.exists())


def short_hash(path: Path) -> str:
    """Eight hex digits that tell one instance from another."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]


GENERATED_SECRETS = ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


def load_or_create_secrets(instance: Path) -> dict[str, str]:
    """The secrets of an instance by their settings' names."""
    path = instance / "secrets.json"
    if not path.exists():
        instance.mkdir(mode=0o755, exist_ok=True)
        made = {name: secrets.token_hex(32) for name in GENERATED_SECRETS}
        made["API_KEY_PEPPER"] = f"1:{made['API_KEY_PEPPER']}"
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(made), encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return dict(json.loads(path.read_text(encoding="utf-8")))
