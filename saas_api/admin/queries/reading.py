"""The one door to reading across tenants: PostgreSQL refuses every write behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.tenancy import as_system

_ONLY_READ = text("SELECT set_config('transaction_read_only', 'on', true)")


@contextmanager
def reading() -> Iterator[Session]:
    """One read-only transaction of the system, across organizations."""
    with as_system("admin.read") as session:
        session.execute(_ONLY_READ)
        yield session
