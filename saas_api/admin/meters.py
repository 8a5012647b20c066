"""Meters: the catalogue with the usage of the last 30 days; created, changed and archived."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, url_for
from marshmallow import fields, validate

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import context
from saas_api.admin.action_types import Action
from saas_api.admin.context import Preview, ReasonForm
from saas_api.core import clock, document_reader, formatting
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.document_reader import InvalidDocument
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import Text
from saas_api.core.web import charts, pages
from saas_api.core.web.charts import Chart
from saas_api.usage import meter_file, meters
from saas_api.usage.meter_file import Aggregation, MeterContent
from saas_api.usage.meters import PublishedMeter
from saas_api.usage.models import Meter

bp = Blueprint("meters", __name__)

REPORTED_DAYS = 30
_BY_METER = sa.text("""
SELECT meter_code, sum(event_count)::bigint AS events, count(DISTINCT organization_id) AS organizations
FROM usage_rollups WHERE bucket_at >= :since GROUP BY 1""")
_BY_DAY = sa.text("""
SELECT (bucket_at AT TIME ZONE 'UTC')::date AS day, sum(event_count)::bigint AS events, sum(quantity) AS quantity,
  count(DISTINCT organization_id) AS organizations
FROM usage_rollups WHERE bucket_at >= :since AND meter_code = :code GROUP BY 1""")


@dataclass(frozen=True)
class MeterRow:
    """A meter in the list.

    events, organizations: numbers of the last 30 days
    """

    meter: Meter
    events: int
    organizations: int


@dataclass(frozen=True)
class MeterDay:
    """A day in UTC of a meter, all organizations together.

    quantity: in the meter's unit; None where quantities do not add up
    """

    day: date
    events: int
    quantity: Decimal | None
    organizations: int


@dataclass(frozen=True)
class MeterDetail:
    """A meter and its last 30 days, the first one first."""

    meter: Meter
    content: MeterContent
    days: Sequence[MeterDay]


def list_meter_rows(session: SystemSession, at: datetime) -> list[MeterRow]:
    """Every meter by code, with its last 30 days up to an instant."""
    usage = {row.meter_code: row for row in session.execute(_BY_METER, {"since": _since(at)})}
    return [
        MeterRow(meter, row.events, row.organizations) if (row := usage.get(meter.code)) else MeterRow(meter, 0, 0)
        for meter in meters.list_meters(session)
    ]


def get_meter_detail(session: SystemSession, meter_code: str) -> MeterDetail:
    """A meter as it is now.

    raises: MeterNotFound
    """
    meter, since = meters.get_meter(session, meter_code), _since(clock.now())
    usage = {row.day: row for row in session.execute(_BY_DAY, {"since": since, "code": meter_code})}
    days = [since.date() + timedelta(days=number) for number in range(REPORTED_DAYS)]
    return MeterDetail(meter, meters.meter_content(meter), [_meter_day(meter, day, usage.get(day)) for day in days])


def _meter_day(meter: Meter, day: date, row: Any) -> MeterDay:
    if row is None:
        return MeterDay(day, 0, Decimal(0) if meter.aggregation.is_additive else None, 0)
    return MeterDay(day, row.events, row.quantity if meter.aggregation.is_additive else None, row.organizations)


def _since(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=REPORTED_DAYS - 1)


class MeterChangeForm(ReasonForm):
    """Fields of a meter."""

    name = Text(maximum=80, required=True)
    unit = Text(maximum=40, required=True)
    description = Text(maximum=300, load_default=None)
    service = Text(maximum=40, load_default=None)
    aggregation = fields.String(load_default=Aggregation.SUM, validate=validate.OneOf(list(Aggregation)))
    value_property = Text(maximum=63, load_default=None)
    unique_property = Text(maximum=63, load_default=None)
    dimensions = fields.List(fields.String(), load_default=list)
    reverse_on_failure = fields.Boolean(load_default=False)


class NewMeterForm(MeterChangeForm):
    """Fields of a new meter."""

    code = Text(maximum=63, required=True)


class MeterFileForm(ReasonForm):
    """A meter as JSON."""

    document = Text(maximum=10_000, multiline=True, required=True)


class ArchiveMeterForm(ReasonForm):
    """Whether the meter takes usage again instead."""

    is_undone = fields.Boolean(load_default=False, metadata={"option": "--undo", "help": "Restore the meter."})


def publish_file(operator: OperatorContext, *, document: str) -> PublishedMeter:
    """Publishes a meter.

    document: JSON
    raises: ValidationFailed; as `meters.publish_meter`
    """
    try:
        return meters.publish_meter(document_reader.parse_json(document), operator.actor, operator.reason)
    except InvalidDocument as error:
        reasons = [f"{path} {reason}".lstrip() for path, reason in error.problems]
        raise ValidationFailed.at_field("document", "; ".join(reasons)) from error


def change_meter(operator: OperatorContext, code: str, **values: Any) -> PublishedMeter:
    """Publishes a meter with these values.

    raises: ValidationFailed; as `meters.publish_meter`
    """
    document = {name: value for name, value in {"code": code, **values}.items() if value is not None}
    try:
        return meters.publish_meter(document, operator.actor, operator.reason)
    except InvalidDocument as error:
        raise ValidationFailed.from_fields(error.problems) from error


def archive_meter(operator: OperatorContext, code: str, *, is_undone: bool) -> tuple[bool, bool]:
    """Archives a meter, or lets it take usage again.

    returns: whether it is archived, and whether this changed
    raises: as `meters.archive_meter`
    """
    return not is_undone, meters.archive_meter(code, operator.actor, operator.reason, is_undone=is_undone)


def preview_new_meter(_subject: None, _form: Any) -> Preview:
    """First values of the form."""
    return Preview(values={"aggregation": Aggregation.SUM, "reverse_on_failure": True})


def preview_change(detail: MeterDetail, _form: Any) -> Preview:
    """The fields as they are."""
    return Preview(values={**vars(detail.content), "dimensions": ", ".join(detail.content.dimensions)})


@bp.get("/admin/meters")
@require_operator("support")
def index() -> Response:
    """List every meter."""
    with context.read_session() as session:
        rows = list_meter_rows(session, clock.now())
    return pages.render_page("admin/meters/index.html", rows=rows)


@bp.get("/admin/meters/<meter_code>")
@require_operator("support")
def show(meter_code: str) -> Response:
    """Show a meter and its usage by day."""
    with context.read_session() as session:
        detail = get_meter_detail(session, meter_code)
    return pages.render_page(
        "admin/meters/show.html",
        detail=detail,
        document=json.dumps(meter_file.to_document(detail.content), indent=2),
        chart=_chart(detail),
    )


def _chart(detail: MeterDetail) -> Chart:
    points: list[charts.ChartPoint] = [(formatting.format_day(row.day), row.events) for row in detail.days]
    title = "Events per day, all organizations (UTC)"
    return charts.bar_chart("events", title, points, series=["events"])


def _meter_page(published: PublishedMeter) -> str:
    return url_for("admin.meters.show", meter_code=published.meter.code)


ACTIONS: tuple[Action, ...] = (
    Action(
        "new-meter",
        "meter_catalogue",
        "Create meter",
        "A meter counts events from the first one that names it, and is charged on plans that have a price for it. "
        "Once it has usage, you can't change its aggregation or unit.",
        "Create meter",
        lambda _, published: f"{published.meter.name} created.",
        change_meter,
        NewMeterForm,
        preview=preview_new_meter,
        next_page=_meter_page,
    ),
    Action(
        "meter-file",
        "meter_catalogue",
        "Publish a meter file",
        "Creates the meter named in the file, or changes it.",
        "Publish file",
        lambda _, published: f"{published.meter.name} published.",
        publish_file,
        MeterFileForm,
        next_page=_meter_page,
    ),
    Action(
        "change",
        "meter",
        lambda detail: f"Change {detail.meter.name}",
        "You can change the name, description and dimensions at any time, and the aggregation and unit only while it "
        "has no usage. Hours already rolled up keep their dimensions until you run flask usage rebuild.",
        "Save meter",
        "Meter saved.",
        change_meter,
        MeterChangeForm,
        preview=preview_change,
    ),
    Action(
        "archive",
        "meter",
        lambda detail: f"{'Restore' if detail.meter.archived_at else 'Archive'} {detail.meter.name}",
        lambda detail: (
            "The meter accepts new usage again, starting immediately."
            if detail.meter.archived_at
            else "The meter no longer accepts usage. Recorded usage is still priced, billed and shown. You can restore "
            "it later."
        ),
        lambda detail: "Restore meter" if detail.meter.archived_at else "Archive meter",
        lambda detail, _: f"{detail.meter.name} {'restored' if detail.meter.archived_at else 'archived'}.",
        archive_meter,
        ArchiveMeterForm,
    ),
)
