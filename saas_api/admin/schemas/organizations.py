"""What the pages of organizations and people are asked and sent."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.admin.schemas.lists import ListQuery, ReasonForm
from saas_api.core.fields import Amount, Day, Email, QueryInt, Schema, Text

STATUSES = ("active", "suspended", "closed")
STANDINGS = ("good", "restricted", "suspended")
KINDS = ("operator", "unverified", "disabled")


class OrganizationsQuery(ListQuery):
    """Filters of organizations."""

    q = Text(maximum=200, load_default=None)
    status = fields.String(load_default=None, validate=validate.OneOf(STATUSES))
    standing = fields.String(load_default=None, validate=validate.OneOf(STANDINGS))
    plan = Text(maximum=60, load_default=None)


class UsersQuery(ListQuery):
    """Filters of people."""

    q = Text(maximum=254, load_default=None)
    kind = fields.String(load_default=None, validate=validate.OneOf(KINDS))


class AuditQuery(ListQuery):
    """Filters of the operators' log."""

    action = Text(maximum=100, load_default=None)
    email = Email(load_default=None)
    start_date = Day(load_default=None)
    end_date = Day(load_default=None)

    @ma.validates_schema
    def _is_range(self, values: dict[str, Any], **_: Any) -> None:
        if values["start_date"] and values["end_date"] and values["end_date"] < values["start_date"]:
            raise ma.ValidationError("Must not be before the first day.", "end_date")


class PlanQuery(Schema):
    """A plan to look at before it is changed to."""

    plan = Text(maximum=60, load_default=None)
    when = fields.String(load_default=None, validate=validate.OneOf(("now", "period_end")))


class NamedForm(ReasonForm):
    """An act that asks for the organization's name besides the reason."""

    name = Text(maximum=200, required=True)


class PlanForm(ReasonForm):
    """Another plan."""

    plan = Text(maximum=60, required=True)
    when = fields.String(load_default=None, validate=validate.OneOf(("now", "period_end")))


class LimitsForm(ReasonForm):
    """Exceptions to the plan; what is empty is the plan's; those of the meters are read besides."""

    rate_limit = QueryInt(minimum=1, maximum=1_000_000, load_default=None)
    expires_on = Day(load_default=None)


class GrantForm(ReasonForm):
    """Money for the wallet."""

    amount = Amount(required=True)
    expires_on = Day(load_default=None)


def end_of(last: date | None) -> datetime | None:
    """The instant in which a day ends, in UTC."""
    return datetime.combine(last, time(), UTC) + timedelta(days=1) if last else None


def last_day_before(end: datetime) -> date:
    """The last day, in UTC, that is over when an instant comes."""
    return (end.astimezone(UTC) - timedelta(microseconds=1)).date()
