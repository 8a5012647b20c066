"""Types of arguments and options that several commands share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
import marshmallow as ma
from marshmallow import fields

from saas_api.cli.errors import CommandError
from saas_api.core import clock, ids
from saas_api.core.fields import Email
from saas_api.core.settings import setting

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


class PublicId(click.ParamType):
    """An id as the API writes it (`org_...`), or as a UUID."""

    name = "id"

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        try:
            return value if isinstance(value, UUID) else ids.parse_id(self.prefix, value)
        except ValueError:
            self.fail(f"{value!r} is no id; write {self.prefix}_ and 32 hex digits, or a UUID.", param, ctx)


class InstantType(click.ParamType):
    """A time as in RFC 3339; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2026-05-01T00:00:00Z.", param, ctx)


class FieldType(click.ParamType):
    """A text that a field of a schema accepts."""

    name = "text"

    def __init__(self, field: fields.Field[Any]) -> None:
        self.field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or (param and value == param.default):
            return value
        try:
            return self.field.deserialize(value)
        except ma.ValidationError as error:
            self.fail(f"{value!r}: {' '.join(map(str, error.messages))}", param, ctx)


class ListType(FieldType):
    """Texts that a field accepts, separated by commas or blanks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        return [super(ListType, self).convert(item, param, ctx) for item in value.replace(",", " ").split()]


def flatten(_context: click.Context, _parameter: click.Parameter, lists: Sequence[list[Any]]) -> list[Any]:
    """The values of an option that is given several times, in one list."""
    return [item for items in lists for item in items]


INSTANT, EMAIL = InstantType(), FieldType(Email())
organization_option = click.option(
    "--organization", "organization_id", type=PublicId("org"), metavar="ID", help="Only this organization."
)
at_option = click.option(
    "--at", type=INSTANT, metavar="TIME", help="Use TIME instead of the current time (not in production)."
)


def effective_now(at: datetime | None) -> datetime:
    """The value of `--at`, or the current instant without it.

    raises: CommandError in production, and for a time that `clock.check_assumed_now` refuses
    """
    if at is None:
        return clock.now()
    if setting("APP_ENV") == "production":
        raise CommandError("--at is refused when APP_ENV=production; leave it out.")
    try:
        clock.check_assumed_now(at)
    except ValueError as error:
        raise CommandError(f"--at: {error}") from None
    return at
