"""What every command has in common: an engine that is away is one line, and an unsafe database stops a process."""

from typing import Any

import click
import redis
from flask.cli import AppGroup
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from saas_api.core.db import dispose
from saas_api.core.observe import get_logger
from saas_api.core.tenancy import UnsafeDatabase, boot_check

log = get_logger(__name__)


class Commands(AppGroup):
    """A group whose commands say in one line that an engine cannot be reached."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except OperationalError as error:
            reason = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
            raise click.ClickException(f"PostgreSQL cannot be reached: {reason} (is make run going?)") from None
        except redis.RedisError as error:
            raise click.ClickException(f"Redis cannot be reached: {error} (is make run going?)") from None


def refuse_unsafe_database() -> None:
    """Stop when the database would not keep tenants apart; one that is away stops nobody.

    No connection is left open: the caller may fork.
    """
    try:
        boot_check()
    except UnsafeDatabase as error:
        raise click.ClickException(f"DATABASE_URL: {error}") from None
    except SQLAlchemyError as error:
        log.warning("database_unchecked", kind=type(error).__name__)
    finally:
        dispose()
