"""The application on temporary engines, for benchmarks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask_migrate import upgrade

from config import load
from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.dev.engines import Engines
from saas_api.core.db import engine

SECRETS = {"SECRET_KEY": "s" * 32, "JWT_SECRET": "j" * 32, "API_KEY_PEPPER": "1:" + "p" * 32}


@contextmanager
def running_application(**settings: Any) -> Iterator[Flask]:
    """The application on empty, migrated engines, which are deleted at the end of the `with` block.

    settings: those that differ from a test's
    """
    with tempfile.TemporaryDirectory(prefix="saas-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Engines(directory) as engines:
            config = load(
                env_file=None,
                **{
                    "APP_ENV": "test",
                    "DATABASE_URL": engines.database_url,
                    "DATABASE_OWNER_URL": engines.owner_url,
                    "REDIS_URL": engines.redis_url,
                    "LOG_LEVEL": "warning",
                    **SECRETS,
                    **settings,
                },
            )
            app = create_app({**config, "INSTANCE": name})
            cli.init_app(app)
            with app.app_context():
                upgrade()
            yield app
            with app.app_context():
                engine.dispose_connections()
