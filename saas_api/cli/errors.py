"""One-line errors, exit codes, command classes."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

import click
import redis
from click.exceptions import NoArgsIsHelpError
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saas_api.cli.dev.host import EngineError
from saas_api.core.db import engine, tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.errors import ApiError, NotFound
from saas_api.core.observability import get_logger

log = get_logger(__name__)

EXIT_FAILED, EXIT_USAGE, EXIT_PROBLEMS = 1, 2, 3
_READ_MORE = "(docs/errors.md says more.)"
_EXAMPLE = "Example: "
_NO_TABLE, _NO_COLUMN, _TOO_SLOW, _LOCKED = "42P01", "42703", "57014", "55P03"  # SQLSTATE
_BY_STATE = {
    _NO_TABLE: "a table is missing: bring it up with flask db upgrade.",
    _NO_COLUMN: "a column is missing: bring it up with flask db upgrade.",
    _TOO_SLOW: "a statement took too long; nothing was changed, try again when there is less to do.",
    _LOCKED: "somebody else holds what is needed; nothing was changed, try again.",
}


class CommandError(click.ClickException):
    """A command that cannot go on: one line for a person, which says what to do."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = code  # type: ignore[misc]  # click calls it constant and reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(self.message, file=file, err=True)


@contextmanager
def to_command_error() -> Iterator[None]:
    """Turn what any command may meet into one line.

    raises: Stopped
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
        raise CommandError(f"DATABASE_URL: {error}; compose.yaml shows the roles it needs.") from None
    except redis.RedisError as error:
        raise CommandError(f"Redis cannot be reached: {error} (is make run going?)") from None
    except PoolTimeout:
        raise CommandError("PostgreSQL gives no more connections; try again when there is less to do.") from None
    except DBAPIError as error:
        known = _BY_STATE.get(str(getattr(error.orig, "pgcode", None)))
        if known is None and not isinstance(error, OperationalError):
            raise
        raise CommandError(f"PostgreSQL: {known}" if known else _unreachable_message(error)) from None


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What the interpreter calls for an error that nobody took, such as one of the commands that others brought."""
    try:
        with to_command_error():
            raise error  # noqa: TRY301 - it was raised elsewhere, and is only read here
    except CommandError as stopped:
        stopped.show()
    except BaseException:  # noqa: BLE001 - it is told as it would have been
        sys.__excepthook__(kind, error, trace)


def _hint(error: ApiError) -> str:
    fields = "; ".join(f"--{one['field']}: {one['reason']}" for one in error.details.get("fields", []))
    if fields:
        return f"{fields} ({error.code})"
    hint = "Look whether the id is whole and of this organization." if isinstance(error, NotFound) else _READ_MORE
    return f"{error.code}: {error.message} {hint}"


def _unreachable_message(error: DBAPIError) -> str:
    reason = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    return f"PostgreSQL cannot be reached: {reason} (is make run going?)"


class _OneLineErrors(click.Command):
    def make_context(self, *words: Any, **extra: Any) -> click.Context:
        with to_command_error():
            return super().make_context(*words, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with to_command_error():
            return super().invoke(ctx)


class Command(_OneLineErrors):
    """A command whose errors are one line, and whose help ends with its example as one would type it."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the text, wrapped, and the examples, which are not."""
        del ctx
        text, examples = self.text_and_examples()
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if examples:
            with formatter.section("Example" if len(examples) == 1 else "Examples"):
                formatter.write("".join(f"{'':>{formatter.current_indent}}{line}\n" for line in examples))

    def text_and_examples(self) -> tuple[str, list[str]]:
        """What the command says of itself, and the lines that show its use."""
        text, _, examples = inspect.cleandoc(self.help or "").partition(_EXAMPLE)
        return text.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


class CommandGroup(_OneLineErrors, AppGroup):
    """A group of such commands."""

    command_class = Command


def require_safe_database() -> None:
    """Stop when the database would not keep tenants apart; one that is away stops nobody.

    No connection is left open: the caller may fork.
    """
    try:
        tenancy.verify_isolation()
    except UnsafeDatabase as error:
        raise CommandError(f"DATABASE_URL: {error}") from None
    except SQLAlchemyError as error:
        log.warning("database_unchecked", kind=type(error).__name__)
    finally:
        engine.dispose_connections()
