"""Errors of commands as one line with a hint, exit codes, and the classes of commands and groups."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

import click
import redis
from click.exceptions import NoArgsIsHelpError
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saas_api.cli.dev.host import EngineError
from saas_api.cli.help_text import CommandWithExamples
from saas_api.core.db import engine, roles, tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.errors import ApiError, NotFound
from saas_api.core.observability import get_logger

log = get_logger(__name__)

EXIT_FAILED, EXIT_USAGE, EXIT_PROBLEMS = 1, 2, 3
_READ_MORE = "(docs/errors.md says more.)"
CREATE_ROLES = "flask db roles prints the SQL that creates logins, roles and database."
_MESSAGE_BY_SQLSTATE = {
    "42P01": "a table is missing: bring it up with flask db upgrade.",
    "42703": "a column is missing: bring it up with flask db upgrade.",
    "57014": "a statement took too long; nothing was changed, try again when there is less to do.",
    "53100": "its disk is full; nothing was changed, make room and try again.",
    "55P03": "another process holds a lock that is needed; nothing was changed, try again.",
}


class CommandError(click.ClickException):
    """A command fails with one line, which says what to do.

    code: exit code of the process
    """

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = code  # type: ignore[misc]  # click calls it constant and reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)


@contextmanager
def to_command_error() -> Iterator[None]:
    """Turn the errors that every command may meet into one line.

    raises: CommandError
    """
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path.replace("python -m flask", "flask") if error.ctx else "flask"
        raise CommandError(f"{error.format_message()} Look at {path} --help.", EXIT_USAGE) from None
    except ApiError as error:
        raise CommandError(_hint(error)) from None
    except EngineError as error:
        raise CommandError(str(error)) from None
    except UnsafeDatabase as error:
        raise CommandError(f"DATABASE_URL: {error}; {CREATE_ROLES}") from None
    except redis.RedisError as error:
        raise CommandError(f"Redis cannot be reached: {error}{_start_hint()}") from None
    except PoolTimeout:
        raise CommandError("PostgreSQL gives no more connections; try again when there is less to do.") from None
    except DBAPIError as error:
        message = _MESSAGE_BY_SQLSTATE.get(str(getattr(error.orig, "pgcode", None)))
        if message is None and not isinstance(error, OperationalError):
            raise
        raise CommandError(f"PostgreSQL: {message}" if message else _unreachable_message(error)) from None


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replacement of sys.excepthook: shows errors of Flask-Migrate's commands as one line, too."""
    try:
        with to_command_error():
            raise error  # noqa: TRY301 - it was raised elsewhere, and is only converted here
    except CommandError as command_error:
        command_error.show()
    except BaseException:  # noqa: BLE001 - the interpreter's own hook shows it
        sys.__excepthook__(kind, error, trace)


def _hint(error: ApiError) -> str:
    fields = "; ".join(f"--{problem['field']}: {problem['reason']}" for problem in error.details.get("fields", []))
    if fields:
        return f"{fields} ({error.code})"
    hint = "Look whether the id is whole and of this organization." if isinstance(error, NotFound) else _READ_MORE
    return f"{error.code}: {error.message} {hint}"


def database_reason(error: Exception) -> str:
    """What PostgreSQL or its driver says, as one line."""
    return (str(getattr(error, "orig", error)).strip().splitlines() or ["no reason given"])[0]


def _unreachable_message(error: DBAPIError) -> str:
    reason = database_reason(error)
    hint = f"; {CREATE_ROLES}" if roles.is_role_missing(reason) else _start_hint()
    return f"PostgreSQL cannot be reached: {reason}{hint}"


def _start_hint() -> str:
    is_development = current_app and current_app.config.get("APP_ENV") != "production"
    return " (is make run going?)" if is_development else ""


class _OneLineErrors(click.Command):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with to_command_error():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with to_command_error():
            return super().invoke(ctx)


class Command(_OneLineErrors, CommandWithExamples):
    """A command whose errors are one line, and whose help ends with examples."""


class CommandGroup(_OneLineErrors, AppGroup):
    """A group of commands with one-line errors."""

    command_class = Command


def require_safe_database() -> None:
    """Fail when the database does not isolate tenants; an unreachable database is only logged.

    No connection is left open: the caller may fork.
    raises: CommandError
    """
    try:
        tenancy.verify_isolation()
    except UnsafeDatabase as error:
        raise CommandError(f"DATABASE_URL: {error}") from None
    except SQLAlchemyError as error:
        log.warning("database_unchecked", kind=type(error).__name__, reason=database_reason(error))
    finally:
        engine.dispose_connections()
