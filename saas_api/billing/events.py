"""Invoice.*, subscription.*, spend_cap.*, usage.* events (InvoiceOut ...) and billing mails."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice
from saas_api.billing.plan_schemas import SubscriptionEventOut, SubscriptionUpdatedEventOut
from saas_api.billing.usage_schemas import AlertEventOut, SpendCapOut
from saas_api.core import clock, ids, money
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject
from saas_api.webhooks.models import Event


def publish_invoice_event(
    session: Session, invoice: Invoice, kind: str, *, attempt: int = 0, next_attempt_at: datetime | None = None
) -> None:
    """Publish an event about a final invoice; its caller holds the invoice's row, so that versions rise.

    kind: such as "invoice.paid"
    attempt: how often payment was asked for
    """
    session.flush()  # the event shows what the row says
    version = _next_version(session, invoice)
    data = {
        **_event_data(invoice),
        "attempt": attempt,
        "next_attempt_at": _instant(next_attempt_at),
        "version": version,
    }
    events.publish(session, invoice.organization_id, kind, EventSubject(invoice.id, version), data)


def _next_version(session: Session, invoice: Invoice) -> int:
    """One above the newest that is kept; events are purged, so the age in days keeps it rising."""
    newest = session.scalar(
        select(func.max(Event.subject_version)).where(
            Event.organization_id == invoice.organization_id, Event.subject_id == invoice.id
        )
    )
    age = clock.now() - invoice.finalized_at if invoice.finalized_at else None
    return max((newest or 1) + 1, 2 + (max(age.days, 0) if age else 0))


def _event_data(invoice: Invoice) -> dict[str, Any]:
    return {
        "object": "invoice",
        "id": ids.format_id("inv", invoice.id),
        "number": invoice.number,
        "status": invoice.status,
        "total_amount": money.format_minor(invoice.total_minor, invoice.currency),
        "currency": invoice.currency,
        "due_date": f"{invoice.due_at:%Y-%m-%d}" if invoice.due_at else None,
        "paid_at": _instant(invoice.paid_at),
    }


def _instant(at: datetime | None) -> str | None:
    return clock.format_rfc3339(at) if at else None


_SUBSCRIPTION_EXAMPLE: dict[str, Any] = {
    "id": "sub_018f3c6a9d2e7a018b4c5d6e7f80cc03",
    "status": "active",
    "plan": {"code": "free", "name": "Free", "version": "free@1", "base_amount": "0.00", "currency": "USD"},
    "previous_plan": None,
    "canceled_at": None,
}
event_types.register(
    "subscription.created",
    schema=SubscriptionEventOut,
    description="A subscription was created.",
    example=_SUBSCRIPTION_EXAMPLE,
)
event_types.register(
    "subscription.updated",
    schema=SubscriptionUpdatedEventOut,
    description="The plan of a subscription changed, or will change at `effective_at`.",
    example={
        **_SUBSCRIPTION_EXAMPLE,
        "plan": {"code": "pro", "name": "Pro", "version": "pro@1", "base_amount": "99.00", "currency": "USD"},
        "previous_plan": "free",
        "effective_at": "2026-03-16T00:00:00.000Z",
    },
)
event_types.register(
    "spend_cap.reached",
    schema=SpendCapOut,
    description="The spend of the current period reached the spend cap.",
    example={
        "amount": "50.00",
        "action": "block",
        "is_default": False,
        "base": "29.00",
        "used": "50.004",
        "currency": "USD",
    },
)
event_types.register(
    "usage.threshold_reached",
    schema=AlertEventOut,
    description="Usage of a meter, or spend, reached the threshold of an alert.",
    example={
        "meter": "sms",
        "percent": 80,
        "quantity": 800,
        "included": 1000,
        "spent": None,
        "cap": None,
        "period_end": "2026-03-31",
    },
)
