"""Pages of messages: list with CSV, detail, test message form."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for
from limits import parse as parse_limit
from markupsafe import Markup
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import usage_costs
from saas_api.core import access, clock, formatting, ids, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine, pagination
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import TooManyRequests, ValidationFailed
from saas_api.core.fields import PrefixedId, StrictSchema, Text, Timestamp
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.core.web import forms, pages, templating
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.core.web.pages import HTMX_STOP_POLLING, MAX_EXPORT_ROWS, PAGE_SIZE
from saas_api.dashboard import context
from saas_api.messages import content, messages, schemas
from saas_api.messages.content import MAX_EMAIL_LENGTH, MAX_SMS_LENGTH, Channel
from saas_api.messages.messages import MessageFilter
from saas_api.messages.models import Message, MessageStatus
from saas_api.messages.schemas import MessageIn, MessageOut, MessagesQuery
from saas_api.usage import ranges, request_log
from saas_api.usage.ranges import InvalidDateRange

bp = Blueprint("messages", __name__)

API_SOURCE = "messages.send"
_HOURS = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
_KINDS = [f"message.{state}" for state in ("accepted", "sent", "delivered", "failed", "canceled")]


POLL_SECONDS = timedelta(minutes=15)
_message_schema = MessageOut()
PENDING_STATUSES = (MessageStatus.QUEUED, MessageStatus.SENDING)
MESSAGE_CSV_COLUMNS = (
    *("message_id", "to", "type", "subject", "status", "segments", "cost", "currency", "mode", "api_key_id"),
    *("attempts", "error_code", "created_at", "sent_at", "delivered_at"),
)
RANGES = {
    "24h": "24 hours",
    "7d": "7 days",
    "30d": "30 days",
    "period": "This period",
    "last_period": "Last period",
}
FAILURE_REASON_LABELS = {
    "bounced": "The mailbox rejected the message.",
    "content_refused": "The provider rejected the content.",
    "expired": "The message could not be sent within 24 hours.",
    "invalid_recipient": "The number or address does not exist.",
    "opted_out": "The recipient has opted out.",
    "poisoned": "Processing failed too many times.",
    "provider_unavailable": "The provider did not respond.",
    "unreachable": "The recipient could not be reached.",
    "unsendable": "The provider can't send this type of message.",
    "unsupported_recipient": "The provider doesn't support this recipient.",
}
_ENDS = {
    MessageStatus.DELIVERED: ("Delivered", "ok"),
    MessageStatus.FAILED: ("Failed", "bad"),
    MessageStatus.CANCELED: ("Canceled", "plain"),
}
TEST_MESSAGES_PER_MINUTE = parse_limit("30 per minute")


@dataclass(frozen=True)
class LedgerRow:
    """A usage event of a message; a reversal is negative."""

    id: UUID
    meter: str
    unit: str
    quantity: Decimal
    occurred_at: datetime
    is_reversal: bool


@dataclass(frozen=True)
class EventDelivery:
    """A delivery of a message's event to an endpoint."""

    delivery_id: UUID
    endpoint_id: UUID
    url: str
    kind: str
    status: str
    attempts: int
    last_status: int | None
    created_at: datetime


def range_bounds(
    session: Session, organization_id: UUID, query: Mapping[str, Any], zone: str
) -> tuple[datetime | None, datetime | None]:
    """Returns the bounds of a range, the second exclusive; None where there is no bound.

    query: `range`, `start_date`, `end_date`; dates take precedence over the range
    raises: ValidationFailed for dates that are no range
    """
    now, named_range = clock.now(), query["range"]
    if not query["start_date"] and not query["end_date"]:
        if named_range in _HOURS:
            return now - timedelta(hours=_HOURS[named_range]), None
        if named_range in ("period", "last_period"):
            return _period(session, organization_id, now, is_last=named_range == "last_period")
        return None, None
    time_zone = time_zones.get_zone(zone)
    try:
        days = ranges.parse_date_range(
            query["start_date"], query["end_date"], now.astimezone(time_zone).date(), time_zone
        )
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause
    return days.starts_at, days.ends_at


def list_ledger_rows(session: Session, organization_id: UUID, message_id: UUID) -> list[LedgerRow]:
    """Returns the usage event of a message and its reversal; nothing in test mode."""
    rows = session.execute(
        text("""WITH own AS (SELECT * FROM usage_event_keys WHERE organization_id = :organization_id
            AND source = :source AND idempotency_key = :key)
          SELECT e.id, e.meter_code, m.unit, e.quantity, e.occurred_at, e.reversal_of IS NOT NULL
          FROM (SELECT * FROM own UNION ALL SELECT r.* FROM own JOIN usage_event_keys r ON
              r.organization_id = :organization_id AND r.source = 'reversal'
              AND r.idempotency_key = own.event_id::text) k
          JOIN usage_events e ON e.organization_id = k.organization_id AND e.id = k.event_id AND e.month = k.month
          JOIN meters m ON m.code = e.meter_code ORDER BY 6, e.recorded_at"""),
        {"organization_id": organization_id, "source": API_SOURCE, "key": str(message_id)},
    )
    return [LedgerRow(*row) for row in rows]


def list_event_deliveries(session: Session, organization_id: UUID, message_id: UUID) -> list[EventDelivery]:
    """Returns the deliveries of a message's events, oldest first."""
    rows = session.execute(
        text("""SELECT d.id, d.endpoint_id, w.url, e.type, d.status, d.attempts, d.last_status, d.created_at
          FROM events e JOIN webhook_deliveries d ON d.organization_id = e.organization_id AND d.event_id = e.id
          JOIN webhook_endpoints w ON w.organization_id = d.organization_id AND w.id = d.endpoint_id
          WHERE e.organization_id = :organization_id AND e.type = ANY (:kinds) AND e.subject_id = :message_id
          ORDER BY e.sequence, d.created_at, d.id LIMIT 50"""),
        {"organization_id": organization_id, "kinds": _KINDS, "message_id": message_id},
    )
    return [EventDelivery(*row) for row in rows]


def _period(
    session: Session, organization_id: UUID, now: datetime, *, is_last: bool
) -> tuple[datetime | None, datetime | None]:
    row = session.execute(
        text("""SELECT starts_at, ends_at FROM billing_periods WHERE organization_id = :organization_id
            AND starts_at <= :now ORDER BY starts_at DESC LIMIT 1 OFFSET :skipped"""),
        {"organization_id": organization_id, "now": now, "skipped": int(is_last)},
    ).first()
    return (row.starts_at, row.ends_at) if row else (now, now)


class TestMessageForm(MessageIn):
    """A test message."""

    type = fields.String(load_default=Channel.SMS, validate=validate.OneOf(list(Channel)))
    to = Text(required=True, maximum=320, error_messages={"required": "Say whom it goes to."})
    message = Text(
        required=True, maximum=MAX_EMAIL_LENGTH, multiline=True, error_messages={"required": "Write a text."}
    )


class SegmentCountForm(StrictSchema):
    """A test message while it is being typed."""

    type = fields.String(load_default=Channel.SMS, validate=validate.OneOf(list(Channel)))
    to = fields.String(load_default="")
    subject = fields.String(load_default="")
    message = fields.String(load_default="", validate=validate.Length(max=MAX_EMAIL_LENGTH))
    smart_encoding = fields.Boolean(load_default=False)


class MessageFilters(MessagesQuery):
    """Filters of the message list."""

    key = PrefixedId("key", load_default=None)
    range = fields.String(load_default=None, validate=validate.OneOf(list(RANGES)))
    after = Timestamp(load_default=None)
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))


class CancelMessagesForm(StrictSchema):
    """Picked messages."""

    message_ids = fields.List(
        PrefixedId("msg"), data_key="ids", validate=validate.Length(max=schemas.MAX_MESSAGES_AT_ONCE)
    )


@bp.get("/messages")
@require_permission("messages:read")
def index(form: Form | None = None) -> Any:
    """List the messages of the current mode, newest first, or download them as CSV. An ID opens its message."""
    picks = form
    searched = request.args.get("to", "").strip()
    if ids.is_public_id(searched, "msg"):
        return pages.redirect_to(".show", message_id=ids.parse_id("msg", searched))
    query, form = forms.parse_filters(MessageFilters(exclude=("limit",)))
    mode, zone, page, counts = g.principal.mode, context.current_zone(), None, {}
    if not form.errors:
        since, until = range_bounds(engine.session(), context.current_organization_id(), query, zone)
        filters = MessageFilter(query["status"], query["type"], mode, query["to"], query["key"], since, until)
        if query["format"]:
            return _export(filters)
        if query["after"] and pages.is_htmx_fragment():
            return _newer(filters, query["after"])
        page_request = PageRequest(PAGE_SIZE, query["cursor"])
        page = messages.list_messages(engine.session(), context.current_organization_id(), filters, page_request)
        if filters.channel is None and filters.api_key_id is None:  # no index counts those
            counts = messages.count_by_status(engine.session(), context.current_organization_id(), filters)
    return pages.render_page(
        "dashboard/messages/index.html",
        status=422 if page is None or picks else 200,
        form=form,
        picks=picks,
        messages=page.items if page else (),
        names=(names := usage_costs.get_key_names(engine.session(), context.current_organization_id(), mode)),
        choices=_choices(names),
        tabs=_status_tabs(form, counts),
        is_filtered=bool(set(form.values) - {"mode"}),
        mode=mode,
        test_messages=_count_test_messages() if mode == KeyMode.LIVE and page and not page.items else 0,
        zone=zone,
        app_url=setting("APP_URL"),
        poll=pages.newer_url(page, lambda message: message.accepted_at),
        **_pagination_links(page.next_cursor if page else None),
    )


def _status_tabs(form: Form, counts: Mapping[str, int]) -> list[tuple[str, str, bool, int | None]]:
    """Returns the tabs of the list: text, address, whether it is the current one, and the number of messages."""
    current = form.value("status")
    return [
        ("All", pages.filter_url(status=None), not current, None),
        *(
            (status.capitalize(), pages.filter_url(status=status), status == current, counts.get(status))
            for status in MessageStatus
        ),
    ]


def _count_test_messages() -> int:
    """How many test messages there are, up to MAX_COUNTED + 1, for the empty list of live ones."""
    filters = MessageFilter(mode=KeyMode.TEST)
    return messages.count_messages(engine.session(), context.current_organization_id(), filters)


def _newer(filters: MessageFilter, after: datetime) -> Response:
    count = messages.count_newer(engine.session(), context.current_organization_id(), filters, after)
    return pages.newer_rows(count, pagination.MAX_COUNTED, "message")


@bp.get('/messages/<id("msg"):message_id>')
@require_permission("messages:read")
def show(message_id: UUID, form: Form | None = None) -> Response:
    """Show a message. The page polls while the message is pending."""
    message, zone = messages.get_message(engine.session(), g.principal, message_id), context.current_zone()
    context.follow_mode(message.mode)
    is_watched = message.status in PENDING_STATUSES and clock.now() - message.accepted_at < POLL_SECONDS
    return pages.render_page(
        "dashboard/messages/show.html",
        block="live",
        status=HTMX_STOP_POLLING if pages.is_htmx_fragment() and not is_watched else 200,
        form=form,
        message=message,
        is_watched=is_watched,
        is_cancelable=message.status == MessageStatus.QUEUED,
        deliveries=list_event_deliveries(engine.session(), context.current_organization_id(), message_id),
        metered=list_ledger_rows(engine.session(), context.current_organization_id(), message_id),
        key_name=_key_name(message),
        request_id=_find_request(message),
        steps=_steps(message, zone),
        zone=zone,
    )


@bp.get("/messages/new")
@require_permission("messages:test")
def send_form(form: Form | None = None) -> Response:
    """Show the form for a test message, in test mode; the pages that follow stay in theirs until it is sent."""
    context.use_mode(KeyMode.TEST)
    form = form or Form({"type": Channel.SMS, "to": "+2348012345678", "message": "Hello"})
    text = _sms_text(form.values)
    return pages.render_page(
        "dashboard/messages/create.html",
        block="count",
        form=form,
        segments=content.count_segments(text) if text else None,
        non_gsm_character=content.find_non_gsm_character(text),
    )


@bp.post("/messages/new/count")
@require_permission("messages:test")
@form_view(SegmentCountForm(), form=send_form)
def segment_count(body: dict[str, Any]) -> Response:  # noqa: ARG001 - the form shows what was typed
    """Count the segments of a text while it is being typed; nothing is sent."""
    return send_form(Form(request.form.to_dict()))


@bp.post("/messages/new")
@require_permission("messages:test")
@form_view(TestMessageForm(), form=send_form, is_idempotent=True)
def send(body: dict[str, Any]) -> Any:
    """Send a test message."""
    if not limiter.limiter.limiter.hit(TEST_MESSAGES_PER_MINUTE, str(context.current_organization_id()), "trials"):
        raise TooManyRequests("You can send at most 30 test messages per minute. Wait a moment, then try again.")
    message = messages.send_test_message(engine.session(), g.principal, body)
    context.enter_mode(KeyMode.TEST)
    return pages.redirect_to(
        "dashboard.messages.show",
        message_id=message.id,
        _notice="Test message accepted. You're viewing test data.",
    )


@bp.post('/messages/<id("msg"):message_id>/cancel')
@require_permission("messages:cancel")
@form_view(EmptyForm(), form=show)
def cancel(message_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Cancel a queued message."""
    messages.cancel_message(engine.session(), g.principal, message_id)
    return pages.redirect_to(
        "dashboard.messages.show", message_id=message_id, _notice="Message canceled. You are not charged for it."
    )


@bp.post("/messages/cancel")
@require_permission("messages:cancel")
@form_view(CancelMessagesForm(), form=index, is_idempotent=True)
def cancel_picked(body: dict[str, Any]) -> Any:
    """Cancel those of the picked messages that are queued."""
    canceled = messages.cancel_messages(engine.session(), g.principal, body.get("message_ids", ()))
    reason = "already sent, being sent or canceled"
    notice = templating.bulk_notice(canceled.count, len(canceled.skipped), "canceled", reason, "message")
    _, filters = forms.parse_filters(MessageFilters(exclude=("limit", "after", "format")))
    return pages.redirect_to("dashboard.messages.index", _notice=notice, **filters.values)


def _sms_text(values: Mapping[str, Any]) -> str:
    """Returns the text of an SMS as it would be sent, or "" where there is nothing to count."""
    text = str(values.get("message") or "").replace("\r\n", "\n")
    if values.get("type") != Channel.SMS or len(text) > MAX_SMS_LENGTH:
        return ""
    return content.replace_typographic_characters(text) if values.get("smart_encoding") else text


def _choices(names: Mapping[UUID, str]) -> dict[str, list[tuple[str, Any]]]:
    return {
        "keys": [("", "Any"), *((ids.format_id("key", key_id), name) for key_id, name in names.items())],
        "ranges": [("Any time", {}), *((text, {"range": name}) for name, text in RANGES.items())],
    }


def _steps(message: Message, zone: str) -> list[dict[str, Any]]:
    """Returns the history of a message in order of time."""
    reason = f"{message.error_code}: {FAILURE_REASON_LABELS.get(message.error_code, '')}" if message.error_code else ""
    tried = templating.pluralize(message.attempts, "attempt")
    steps = [{"text": "Accepted", "time": _step_time(message.accepted_at, None, zone), "kind": "ok"}]
    if message.status == MessageStatus.SENDING:
        steps.append({"text": "Sending", "time": "now", "kind": "info", "note": reason})
    elif message.status == MessageStatus.QUEUED:
        text = f"Waiting for the next attempt after {tried}" if message.attempts else "Waiting for the first attempt"
        steps.append({"text": text, "time": _step_time(message.next_at, None, zone), "kind": "info", "note": reason})
    if message.sent_at is not None and message.status != "failed":
        time = _step_time(message.sent_at, message.accepted_at, zone)
        steps.append({"text": "Sent", "time": time, "kind": "ok", "note": tried})
    if message.status in _ENDS:
        text, kind = _ENDS[message.status]
        note = "" if message.status == MessageStatus.DELIVERED else f"{reason} {tried}" if reason else ""
        time = _step_time(message.finished_at, message.sent_at or message.accepted_at, zone)
        steps.append({"text": text, "time": time, "kind": kind, "note": note})
    return steps


def _step_time(at: datetime | None, previous: datetime | None, zone: str) -> str:
    """An instant to the second, with the time since the step before it, such as "+1.2 s"."""
    shown = templating.format_datetime(at, zone, seconds=True)
    if at is None or previous is None:
        return shown
    return Markup("{} · +{} s").format(shown, formatting.format_number(round((at - previous).total_seconds(), 1)))


def _export(filters: MessageFilter) -> Response:
    rows = messages.list_export_rows(engine.session(), context.current_organization_id(), filters, MAX_EXPORT_ROWS + 1)
    if len(rows) > MAX_EXPORT_ROWS:
        raise ValidationFailed.at_field("range", f"More than {MAX_EXPORT_ROWS:,} messages; choose a shorter range.")
    zone = context.current_zone()
    name = f"messages-{filters.mode}-{clock.now().astimezone(time_zones.get_zone(zone)):%Y-%m-%d}.csv"
    return pages.csv_response(name, MESSAGE_CSV_COLUMNS, (csv_row(message, zone) for message in rows))


def csv_row(message: Message, zone: str) -> list[Any]:
    """Values of MESSAGE_CSV_COLUMNS."""
    data = pages.dump_csv_fields(_message_schema, message, zone)
    row = {
        **data,
        "currency": None if data["cost"] is None else message.currency,
        "api_key_id": message.api_key_id and ids.format_id("key", message.api_key_id),
    }
    return [row[column] for column in MESSAGE_CSV_COLUMNS]


def _find_request(message: Message) -> str | None:
    """The id of the request that sent a message, for those who may see requests; None where the log has it not."""
    if not access.has_permission(g.principal, "usage:read"):
        return None
    return request_log.find_sending_request(engine.session(), message.organization_id, message.id)


def _key_name(message: Message) -> str | None:
    return (
        usage_costs.get_key_names(engine.session(), context.current_organization_id())[message.api_key_id]
        if message.api_key_id
        else None
    )


def _pagination_links(next_cursor: str | None) -> dict[str, Any]:
    """Returns the links to older and newest messages and to the CSV, with the same filters."""
    filters: dict[str, Any] = {name: value for name, value in request.args.items() if value and name != "cursor"}
    table = url_for(".index", **{**filters, "format": "csv"})
    return {**pages.pagination_links(next_cursor), "table": table}
