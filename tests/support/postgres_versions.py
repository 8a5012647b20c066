"""PostgreSQL servers of other major versions than the embedded one, as Debian's packages install them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from saas_api.cli.dev import host
from saas_api.cli.dev.servers import EmbeddedPostgres
from tests.support.installations import open_directory

INSTALLED = sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class BarePostgres(EmbeddedPostgres):
    """A server with a superuser and no login of the product."""

    def create_logins(self) -> None:
        """Create nothing."""


@contextmanager
def running_postgres(binaries: Path | None) -> Iterator[BarePostgres]:
    """A server on a Unix socket, which is deleted at the end.

    binaries: directory of initdb and postgres; None for the embedded version
    """
    with open_directory() as directory, pytest.MonkeyPatch.context() as patch:
        if binaries is not None:
            patch.setattr(host, "postgres_bin_directory", lambda: binaries)
        for name in ("pg", "run", "log"):
            host.make_engine_directory(directory / name, 0o700)
        server = BarePostgres(directory, directory / "run", is_durable=False)
        server.start()
        try:
            yield server
        finally:
            server.stop()
