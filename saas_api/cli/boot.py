"""What every command has in common: help with an example, errors as one line with a hint, a database that is safe."""

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
from saas_api.core.db import dispose
from saas_api.core.errors import ApiError, NotFound
from saas_api.core.observe import get_logger
from saas_api.core.tenancy import UnsafeDatabase, boot_check

log = get_logger(__name__)

FAILED, MISUSED, PROBLEMS_FOUND = 1, 2, 3
_READ_MORE = "(docs/errors.md says more.)"
_EXAMPLE = "Example: "
_NO_TABLE, _NO_COLUMN, _TOO_SLOW, _LOCKED = "42P01", "42703", "57014", "55P03"  # SQLSTATE
_BY_STATE = {
    _NO_TABLE: "a table is missing: bring it up with flask db upgrade.",
    _NO_COLUMN: "a column is missing: bring it up with flask db upgrade.",
    _TOO_SLOW: "a statement took too long; nothing was changed, try again when there is less to do.",
    _LOCKED: "somebody else holds what is needed; nothing was changed, try again.",
}


class Stopped(click.ClickException):
    """A command that cannot go on: one line for a person, which says what to do."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = code  # type: ignore[misc]  # click calls it constant and reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(self.message, file=file, err=True)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what any command may meet into one line.

    raises: Stopped
    """
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path.replace("python -m flask", "flask") if error.ctx else "flask"
        raise Stopped(f"{error.format_message()} Look at {path} --help.", MISUSED) from None
    except ApiError as error:
        raise Stopped(_told(error)) from None
    except EngineError as error:
        raise Stopped(str(error)) from None
    except UnsafeDatabase as error:
        raise Stopped(f"DATABASE_URL: {error}; compose.yaml shows the roles it needs.") from None
    except redis.RedisError as error:
        raise Stopped(f"Redis cannot be reached: {error} (is make run going?)") from None
    except PoolTimeout:
        raise Stopped("PostgreSQL gives no more connections; try again when there is less to do.") from None
    except DBAPIError as error:
        known = _BY_STATE.get(str(getattr(error.orig, "pgcode", None)))
        if known is None and not isinstance(error, OperationalError):
            raise
        raise Stopped(f"PostgreSQL: {known}" if known else _away(error)) from None


def last_resort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What the interpreter calls for an error that nobody took, such as one of the commands that others brought."""
    try:
        with one_line():
            raise error  # noqa: TRY301 - it was raised elsewhere, and is only read here
    except Stopped as stopped:
        stopped.show()
    except BaseException:  # noqa: BLE001 - it is told as it would have been
        sys.__excepthook__(kind, error, trace)


def _told(error: ApiError) -> str:
    fields = "; ".join(f"--{one['field']}: {one['reason']}" for one in error.details.get("fields", []))
    if fields:
        return f"{fields} ({error.code})"
    hint = "Look whether the id is whole and of this organization." if isinstance(error, NotFound) else _READ_MORE
    return f"{error.code}: {error.message} {hint}"


def _away(error: DBAPIError) -> str:
    reason = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    return f"PostgreSQL cannot be reached: {reason} (is make run going?)"


class _OneLine(click.Command):
    def make_context(self, *words: Any, **extra: Any) -> click.Context:
        with one_line():
            return super().make_context(*words, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


class Single(_OneLine):
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


class Commands(_OneLine, AppGroup):
    """A group of such commands."""

    command_class = Single


def refuse_unsafe_database() -> None:
    """Stop when the database would not keep tenants apart; one that is away stops nobody.

    No connection is left open: the caller may fork.
    """
    try:
        boot_check()
    except UnsafeDatabase as error:
        raise Stopped(f"DATABASE_URL: {error}") from None
    except SQLAlchemyError as error:
        log.warning("database_unchecked", kind=type(error).__name__)
    finally:
        dispose()
