"""What worker and scheduler make sure of before they work; the web does the same in gunicorn.conf.py."""

import click
from sqlalchemy.exc import SQLAlchemyError

from saas_api.core.db import db
from saas_api.core.observe import get_logger
from saas_api.core.tenancy import UnsafeDatabase, boot_check

log = get_logger(__name__)


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
        db.engine.dispose()
