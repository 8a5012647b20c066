"""Pages about messages: the list and its table, one with all that became of it, and trying one out."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for
from limits import parse as parse_limit

from saas_api.billing.queries.usage import key_names, report_currency
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid, TooManyRequests
from saas_api.core.ids import wire_id
from saas_api.core.limits import limiter
from saas_api.core.money import amount_text, unit_price_text
from saas_api.core.render import Form, csv_response, page, see_other, submits
from saas_api.core.render.filters import plural, when
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.core.render.pages import is_fragment
from saas_api.core.settings import setting
from saas_api.dashboard.queries import messages as reads
from saas_api.dashboard.schemas import messages as forms
from saas_api.messages import queries, rules
from saas_api.messages import service as messages
from saas_api.messages.models import Message
from saas_api.organizations import service as organizations

bp = Blueprint("messages", __name__)
LIMIT, MOST_ROWS, STOP_POLLING = 25, 50_000, 286
WATCHED = timedelta(minutes=15)
OPEN = ("queued", "sending")
COLUMNS = (
    *("message_id", "to", "type", "subject", "status", "segments", "cost", "currency", "mode", "api_key_id"),
    *("attempts", "error_code", "created_at", "sent_at", "delivered_at"),
)
RANGES = {
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "period": "This billing period",
    "last_period": "Last billing period",
    "custom": "The days beside",
}
REASONS = {
    "bounced": "The mailbox refused it.",
    "content_refused": "The provider refused the text.",
    "expired": "It could not be handed over within 24 hours.",
    "invalid_recipient": "The number or address does not exist.",
    "opted_out": "The recipient does not want messages.",
    "poisoned": "Handling it failed too often.",
    "provider_unavailable": "The provider did not answer.",
    "unreachable": "The recipient could not be reached.",
    "unsendable": "The provider cannot send such a message.",
    "unsupported_recipient": "The provider does not serve such addresses.",
}
_ENDS = {"delivered": ("Delivered", "ok"), "failed": ("Failed", "bad"), "canceled": ("Canceled", "plain")}
_TRIALS = parse_limit("30 per minute")


@bp.get("/messages")
@require("messages:read")
def index() -> Response:
    """List the messages of the mode that is shown, newest first, or give them as a table."""
    query, form = read_filters(forms.MessageFilters())
    mode = query.get("mode") or g.principal.mode
    found, zone = None, _zone()
    if not form.errors:
        query = {**query, "mode": mode, "limit": LIMIT}
        since, until = reads.instants(session(), _organization_id(), query, zone)
        if query["format"]:
            return _table(query, since, until)
        found = queries.page(session(), _organization_id(), query, since, until)
    return page(
        "dashboard/messages/index.html",
        status=200 if found else 422,
        form=Form({"mode": mode, **form.values}, form.errors),
        messages=found.items if found else (),
        names=(names := key_names(session(), _organization_id())),
        choices=_choices(names),
        currency=report_currency(session(), _organization_id()) if found and found.items else "",
        exact=amount_text,
        is_filtered=bool(set(form.values) - {"mode"}),
        mode=mode,
        zone=zone,
        app_url=setting("APP_URL"),
        **_pages(found.next_cursor if found else None),
    )


@bp.get('/messages/<id("msg"):message_id>')
@require("messages:read")
def show(message_id: UUID, form: Form | None = None) -> Response:
    """Show what became of a message; while it is under way the page looks again by itself."""
    message, zone = messages.get(session(), g.principal, message_id), _zone()
    is_watched = message.status in OPEN and clock.now() - message.accepted_at < WATCHED
    return page(
        "dashboard/messages/show.html",
        block="live",
        status=STOP_POLLING if is_fragment() and not is_watched else 200,
        form=form,
        message=message,
        is_watched=is_watched,
        is_cancelable=message.status == "queued",
        told=reads.told(session(), _organization_id(), message_id),
        metered=reads.metered(session(), _organization_id(), message_id),
        key_name=_key_name(message),
        steps=_steps(message, zone),
        currency=report_currency(session(), _organization_id()),
        exact=amount_text,
        plain=unit_price_text,
        zone=zone,
    )


@bp.get("/messages/new")
@require("messages:test")
def new(form: Form | None = None, segments: int | None = None) -> Response:
    """Ask for a test message."""
    shown = form or Form({"type": "sms", "to": "+2348012345678", "message": "Hello"})
    if segments is None:
        segments = _segments(shown.values)
    return page("dashboard/messages/new.html", block="count", form=shown, segments=segments)


@bp.post("/messages/new/count")
@require("messages:test")
@submits(forms.DraftForm(), again=new)
def count(body: dict[str, Any]) -> Response:
    """Count the segments of a text that is being written; nothing is sent."""
    return new(Form(request.form.to_dict()), _segments(body))


@bp.post("/messages/new")
@require("messages:test")
@submits(forms.TrialForm(), again=new, is_once=True)
def send(body: dict[str, Any]) -> Any:
    """Send a test message."""
    if not limiter.limiter.hit(_TRIALS, str(_organization_id()), "trials"):
        raise TooManyRequests("At most 30 test messages a minute. Wait a moment, then send it again.")
    sent = messages.try_out(session(), g.principal, body)
    return see_other(
        "dashboard.messages.show", message_id=sent.id, _notice="Accepted. This page shows what becomes of it."
    )


@bp.post('/messages/<id("msg"):message_id>/cancel')
@require("messages:cancel")
@submits(forms.NoFields(), again=show)
def cancel(message_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Cancel a message that has not left yet."""
    messages.cancel(session(), g.principal, message_id)
    return see_other("dashboard.messages.show", message_id=message_id, _notice="Canceled. Its usage was taken back.")


def _segments(values: Mapping[str, Any]) -> int | None:
    """Parts of an SMS; None where there is nothing to count."""
    text = values.get("message") or ""
    if values.get("type") != "sms" or not text or len(text) > rules.LONGEST_SMS:
        return None
    return rules.segments(text.replace("\r\n", "\n"))


def _choices(names: Mapping[UUID, str]) -> dict[str, list[tuple[str, str]]]:
    return {
        "statuses": [("", "Any"), *((status, status.capitalize()) for status in forms.STATUSES)],
        "keys": [("", "Any"), *((wire_id("key", key_id), name) for key_id, name in names.items())],
        "ranges": [("", "Any"), *RANGES.items()],
    }


def _steps(message: Message, zone: str) -> list[dict[str, Any]]:
    """What became of a message, from its acceptance to its end."""
    reason = f"{message.error_code}: {REASONS.get(message.error_code, '')}" if message.error_code else ""
    tried = plural(message.attempts, "attempt")
    steps = [{"text": "Accepted", "time": when(message.accepted_at, zone), "kind": "ok"}]
    if message.status == "sending":
        steps.append({"text": "With the provider", "time": "now", "kind": "info", "note": reason})
    elif message.status == "queued":
        text = f"Waiting for its next attempt after {tried}" if message.attempts else "Waiting for its first attempt"
        steps.append({"text": text, "time": when(message.next_at, zone), "kind": "info", "note": reason})
    if message.sent_at is not None and message.status != "failed":
        steps.append({"text": "Sent", "time": when(message.sent_at, zone), "kind": "ok", "note": tried})
    if message.status in _ENDS:
        text, kind = _ENDS[message.status]
        note = "" if message.status == "delivered" else f"{reason} {tried}" if reason else ""
        steps.append({"text": text, "time": when(message.finished_at, zone), "kind": kind, "note": note})
    return steps


def _table(query: Mapping[str, Any], since: Any, until: Any) -> Response:
    found = queries.table(session(), _organization_id(), query, since, until, MOST_ROWS + 1)
    if len(found) > MOST_ROWS:
        raise Invalid.at("range", f"More than {MOST_ROWS:,} messages; choose a shorter range.")
    currency = report_currency(session(), _organization_id()) if found else ""
    name = f"messages-{query['mode']}-{clock.now():%Y-%m-%d}.csv"
    return csv_response(name, COLUMNS, [_row(message, currency) for message in found])


def _row(message: Message, currency: str) -> tuple[Any, ...]:
    cost = None if message.cost is None else Decimal(unit_price_text(message.cost))
    delivered_at = message.finished_at if message.status == "delivered" else None
    return (
        *(wire_id("msg", message.id), message.recipient, message.channel, message.subject, message.status),
        *(message.segments, cost, None if cost is None else currency, message.mode),
        *(message.api_key_id and wire_id("key", message.api_key_id), message.attempts, message.error_code),
        *(at and clock.rfc3339(at) for at in (message.accepted_at, message.sent_at, delivered_at)),
    )


def _key_name(message: Message) -> str | None:
    return key_names(session(), _organization_id())[message.api_key_id] if message.api_key_id else None


def _zone() -> str:
    return organizations.get(session(), _organization_id()).timezone


def _organization_id() -> UUID:
    found: UUID = g.principal.organization_id
    return found


def _pages(next_cursor: str | None) -> dict[str, Any]:
    """The addresses of older and of the newest messages and of the table, the filters kept."""
    kept: dict[str, Any] = {name: value for name, value in request.args.items() if value and name != "cursor"}
    table = url_for(".index", **{**kept, "format": "csv"})
    return {**neighbours(next_cursor), "table": table}
