"""Field types of every schema, StrictSchema, and the schemas of paginated lists; no Flask."""

import re
import unicodedata
import uuid
from collections.abc import Collection
from contextvars import ContextVar
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import marshmallow as ma
from email_validator import EmailNotValidError, validate_email
from marshmallow import fields, validate

from saas_api.core import clock, ids, money

MAX_DISPLAY_NAME_LENGTH = 80
# Scheme, "www.", or a host name such as evil.example; "Acme Inc.", "U.S.A." and "St.Gallen" are names.
_WEB_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://|\bwww\.|(?<![\w.-])(?:[\w-]+\.)*[\w-]{2,}\.(?:[a-z]{2,}|[A-Z]{2,}|xn--[\w-]+)(?![\w-])"
)
# Joiners within Arabic and Indic words and emoji change how their neighbours look.
_SCRIPT_JOINER = re.compile(r"(?<=[^\x00-\u02ff\s])[\u200c\u200d](?=[^\x00-\u02ff\s])")
# The categories Cc and Cs of Unicode; a pattern searches 50,000 characters many times faster than a loop.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROLS_WITHIN_A_LINE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_outer_currency: ContextVar[str] = ContextVar("outer_currency", default="")


def has_controls(text: str, *, is_multiline: bool) -> bool:
    """Whether a text has control characters or halves of a character.

    is_multiline: line breaks and tabs are allowed
    """
    return (_CONTROLS_WITHIN_A_LINE if is_multiline else _CONTROLS).search(text) is not None


class StrictSchema(ma.Schema):
    """A schema that rejects unknown fields."""

    class Meta:
        """Options of marshmallow."""

        unknown = ma.RAISE


class Text(fields.String):
    """Text without control characters, normalized to NFC.

    minimum, maximum: length in characters
    multiline: line breaks and tabs are allowed
    """

    def __init__(
        self,
        *,
        minimum: int = 1,
        maximum: int = 200,
        multiline: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(validate=validate.Length(min=minimum, max=maximum), **options)
        self.is_multiline = multiline

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = unicodedata.normalize("NFC", super()._deserialize(value, attr, data, **options))
        if has_controls(text, is_multiline=self.is_multiline):
            raise ma.ValidationError("Control characters are not allowed.")
        if value and not text.strip():
            raise ma.ValidationError("Must not be blank.")
        return text


class Name(Text):
    """A name on one line, without characters that are invisible or change the direction of the text around them."""

    def __init__(self, *, maximum: int = 100, **options: Any) -> None:
        super().__init__(maximum=maximum, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options).strip()
        if any(unicodedata.category(character) == "Cf" for character in _SCRIPT_JOINER.sub("", text)):
            raise ma.ValidationError("Invisible characters are not allowed.")
        return text


class DisplayName(Name):
    """The name of a user or an organization; mail to others contains it, so a web address is rejected."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=MAX_DISPLAY_NAME_LENGTH, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        if _WEB_ADDRESS.search(text[:MAX_DISPLAY_NAME_LENGTH]):  # a longer text is rejected for its length
            raise ma.ValidationError("A name cannot contain a web address.")
        return text


def normalize_email(text: str) -> str:
    """An email address in the only form that is stored and compared: trimmed, NFC and lower case.

    Python's lower case, because PostgreSQL's depends on the locale of the database. It is not checked with DNS.
    raises: ValueError for a text that is no address
    """
    try:
        address = validate_email(text.strip(), check_deliverability=False).normalized
    except EmailNotValidError as cause:
        raise ValueError("Not a valid email address.") from cause
    return unicodedata.normalize("NFC", address.lower())


class Email(Text):
    """An email address, as `normalize_email` writes it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=254, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = value.strip() if isinstance(value, str) else value  # a pasted address often has a blank around it
        try:
            return normalize_email(super()._deserialize(text, attr, data, **options))
        except ValueError as cause:
            raise ma.ValidationError(str(cause)) from cause


class OneOfRegistered(validate.Validator):
    """Accepts the members of a collection that domains may still extend after the schema is defined."""

    def __init__(self, registered: Collection[str], *, error: str | None = None) -> None:
        self._registered = registered
        self._error = error

    @property
    def choices(self) -> list[str]:
        """The members, sorted; OpenAPI lists them."""
        return sorted(self._registered)

    def __call__(self, value: str) -> str:
        """Return the value, or raise the ValidationError of `OneOf`."""
        validated: str = validate.OneOf(self.choices, error=self._error)(value)
        return validated


class Timestamp(fields.Field[datetime]):
    """An instant: loads RFC 3339 with an offset, dumps UTC with milliseconds."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else clock.format_rfc3339(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> datetime:
        try:
            instant = datetime.fromisoformat(value)
        except (TypeError, ValueError) as cause:
            raise ma.ValidationError("Not a valid RFC 3339 time.") from cause
        if instant.tzinfo is None:
            raise ma.ValidationError("The time needs an offset or Z.")
        try:
            return instant.astimezone(UTC)
        except OverflowError as cause:
            raise ma.ValidationError("This time is outside the calendar.") from cause


class DateField(fields.Date):
    """A calendar date, `YYYY-MM-DD` only."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> date:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ma.ValidationError("Not a day like 2026-03-31.")
        return super()._deserialize(value, attr, data, **options)


class StrictInteger(fields.Integer):
    """An integer; 5.5, "5" and true are rejected."""

    def __init__(self, *, minimum: int = 0, maximum: int = 1_000_000_000, **options: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(min=minimum, max=maximum), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if type(value) is not int:
            raise ma.ValidationError("Not a whole number.")
        return value


class QueryInteger(fields.Integer):
    """An integer in a query string: one to nine ASCII digits."""

    def __init__(self, *, minimum: int = 0, maximum: int = 999_999_999, **options: Any) -> None:
        super().__init__(validate=validate.Range(min=minimum, max=maximum), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{10,}", value):
            raise ma.ValidationError("Must be at most 999,999,999.")
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,9}", value):
            raise ma.ValidationError("Not a whole number.")
        return int(value)


class MoneyAmount(fields.Field[Decimal]):
    """An amount of money as a decimal string such as "29.00"; a JSON number is rejected."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else str(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Decimal:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,10})?", value):
            raise ma.ValidationError('Not an amount like "29.00".')
        return Decimal(value)


class MinorAmount(MoneyAmount):
    """An amount that an object holds in minor units; dumps major units such as "29.00".

    The currency is that of the object or, if it has none, of the object around it that `NestedAmounts` belongs to.
    """

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        currency = ma.utils.get_value(obj, "currency", _outer_currency.get())
        return None if value is None else money.format_minor(value, currency)


class NestedAmounts(fields.Nested):
    """A nested object whose amounts are in the currency of the object around it, such as the lines of an invoice."""

    def _serialize(  # type: ignore[override]  # marshmallow's Nested and Field name the parameter differently
        self, nested_obj: Any, attr: str | None, obj: Any, **options: Any
    ) -> Any:
        token = _outer_currency.set(ma.utils.get_value(obj, "currency", _outer_currency.get()))
        try:
            return super()._serialize(nested_obj, attr, obj, **options)  # type: ignore[no-untyped-call]  # marshmallow's
        finally:
            _outer_currency.reset(token)


class Embedded(fields.Nested):
    """A nested object that is made of attributes of the object itself."""

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = ma.missing) -> Any:
        """Return the object itself."""
        return obj


class ExactAmount(MoneyAmount):
    """An amount in major units that is not rounded, in a currency as of `MinorAmount`; dumps at least its decimals."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        currency = ma.utils.get_value(obj, "currency", _outer_currency.get())
        return None if value is None else money.format_exact_amount(value, currency)


class Quantity(MoneyAmount):
    """A quantity of a meter or a unit price; dumps a decimal string without trailing zeros."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else money.format_unit_price(value)


class PrefixedId(fields.Field[uuid.UUID]):
    """An identifier with the prefix of its type; loads a bare UUID too."""

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(**options)
        self.prefix = prefix

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else ids.format_id(self.prefix, value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> uuid.UUID:
        try:
            return ids.parse_id(self.prefix, value)
        except (ValueError, AttributeError, TypeError) as cause:
            raise ma.ValidationError(f"Not a valid {self.prefix}_ id.") from cause


class PageQuery(StrictSchema):
    """`limit` and `cursor` of every list."""

    limit = QueryInteger(minimum=1, maximum=100, load_default=20)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class Pagination(StrictSchema):
    """Position in a list: `next_cursor` is the `cursor` of the next page, null on the last one."""

    limit = fields.Integer()
    has_more = fields.Boolean()
    next_cursor = fields.String(allow_none=True)


def page_schema(name: str, item: ma.Schema) -> ma.Schema:
    """Make the schema of a `Page`.

    name: plural under which the items stand, such as "sessions"
    """
    page_fields = {
        name: fields.List(fields.Nested(item), attribute="items"),
        "pagination": fields.Nested(Pagination()),
    }
    return StrictSchema.from_dict(page_fields, name=f"PageOf{name.title().replace('_', '')}")()
