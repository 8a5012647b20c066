"""Where the engines of an instance stand: computed, not discovered, so that settings know it before anything runs."""

import os
import tempfile
from pathlib import Path

from saas_api.cli.dev import host

LOGIN = "saas"
SOCKET_PATH_LIMIT = 103


def home(instance: Path) -> Path:
    """The directory the engines use: the instance's own, or one under /var/lib that `nobody` can reach."""
    instance = instance.absolute()
    if os.geteuid() == 0 and not host.is_traversable(instance):
        return Path("/var/lib/saas_api") / host.short_hash(instance)
    return instance


def sockets(instance: Path) -> Path:
    """The directory of both sockets, whose paths the kernel limits."""
    run = home(instance) / "run"
    if len(str(run / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
        return run
    base = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else None
    return Path(base or tempfile.gettempdir()) / f"saas_api-{os.geteuid()}-{host.short_hash(instance)}"


def urls(instance: Path) -> tuple[str, str]:
    """Addresses of both engines as SQLAlchemy and redis-py read them, whether or not they run."""
    run = sockets(instance)
    quoted = str(run).replace("%", "%25").replace(" ", "%20").replace("&", "%26").replace("#", "%23")
    return f"postgresql+psycopg2://{LOGIN}@/{LOGIN}?host={quoted}", f"unix://{quoted}/redis.sock"


def wanted_engines(instance: Path, database_url: str, redis_url: str) -> tuple[str, ...]:
    """Which engines are the instance's own, rather than somewhere else.

    database_url, redis_url: the settings
    """
    own = dict(zip(("postgres", "redis"), urls(instance), strict=True))
    given = {"postgres": database_url, "redis": redis_url}
    return tuple(name for name, url in own.items() if given[name] == url)
