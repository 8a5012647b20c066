"""Webhook events of invoices, subscriptions, spend caps and usage alerts, and the mail of a new invoice."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from saas_api.billing.models import BillingPeriod, Invoice, InvoiceStatus
from saas_api.billing.plan_schemas import SubscriptionEventOut, SubscriptionUpdatedEventOut
from saas_api.billing.schemas import InvoiceEventOut
from saas_api.billing.usage_schemas import AlertEventOut, SpendCapOut
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject, NewEvent
from saas_api.webhooks.models import Event

_EXAMPLE: dict[str, Any] = {
    "id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
    "number": "INV-000042",
    "status": "open",
    "period": {
        "starts_at": "2026-02-01T00:00:00.000Z",
        "ends_at": "2026-03-01T00:00:00.000Z",
        "timezone": "UTC",
    },
    "total_amount": "29.41",
    "amount_due": "29.41",
    "currency": "USD",
    "due_date": "2026-03-08T00:00:00.000Z",
    "paid_at": None,
    "attempt": 0,
    "next_attempt_at": None,
    "version": 2,
}
_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "invoice.finalized": ("An invoice got its number and can be paid.", {}),
    "invoice.paid": (
        "An invoice is paid in full.",
        {"status": "paid", "amount_due": "0.00", "paid_at": "2026-03-02T09:00:00.000Z", "version": 3},
    ),
    "invoice.payment_failed": (
        "A payment of an invoice failed.",
        {"attempt": 1, "next_attempt_at": "2026-03-11T09:00:00.000Z", "version": 3},
    ),
    "invoice.overdue": ("An invoice is past its due date.", {"attempt": 1, "version": 4}),
    "invoice.voided": (
        "An invoice was voided: nothing is owed for it.",
        {"status": "void", "amount_due": "0.00", "version": 3},
    ),
    "invoice.marked_uncollectible": ("An invoice was written off.", {"status": "uncollectible", "version": 5}),
}
for _event_type, (_description, _changes) in _TYPES.items():
    event_types.register(
        _event_type, schema=InvoiceEventOut, description=_description, example={**_EXAMPLE, **_changes}
    )


def publish_invoice_event(
    session: SystemSession,
    invoice: Invoice,
    event_type: str,
    *,
    attempt: int = 0,
    next_attempt_at: datetime | None = None,
) -> None:
    """Publish an event of a final invoice. The caller has locked the invoice, so that versions rise.

    event_type: such as "invoice.paid"
    attempt: number of payments or reminders so far
    """
    session.flush()  # the data are those of the stored row
    version = _next_version(session, invoice)
    period_key = (invoice.organization_id, invoice.billing_period_id)
    period = session.get(BillingPeriod, period_key) if invoice.billing_period_id else None
    resource = _resource(invoice, period, version, attempt, next_attempt_at)
    data = event_types.dump_data(event_type, resource)
    events.publish(session, invoice.organization_id, event_type, EventSubject(invoice.id, version), data)


def publish_finalized(session: SystemSession, finalized: Sequence[tuple[Invoice, BillingPeriod]]) -> None:
    """Publish the events of new invoices that became final in this transaction."""
    publishing = events.list_publishing(session, [invoice.organization_id for invoice, _ in finalized])
    published = []
    for invoice, period in finalized:
        if invoice.organization_id not in publishing:
            continue
        types = ["invoice.finalized", *(["invoice.paid"] if invoice.status == InvoiceStatus.PAID else [])]
        for version, event_type in enumerate(types, start=_FIRST_VERSION):
            data = event_types.dump_data(event_type, _resource(invoice, period, version, 0, None))
            new_event = NewEvent(event_type, EventSubject(invoice.id, version), data)
            published.append((invoice.organization_id, new_event))
    events.publish_for_many(session, published)


def _resource(
    invoice: Invoice, period: BillingPeriod | None, version: int, attempt: int, next_attempt_at: datetime | None
) -> dict[str, Any]:
    return {
        "invoice": invoice,
        "period": period,
        "currency": invoice.currency,
        "attempt": attempt,
        "next_attempt_at": next_attempt_at,
        "version": version,
    }


_FIRST_VERSION = 2
"""Of an invoice that has become final; its draft, which is never published, was the first."""


def _next_version(session: SystemSession, invoice: Invoice) -> int:
    """One above the newest stored event; its age in days keeps the version rising after old events were purged."""
    newest = session.scalar(
        select(func.max(Event.subject_version)).where(
            Event.organization_id == invoice.organization_id, Event.subject_id == invoice.id
        )
    )
    age = clock.now() - invoice.finalized_at if invoice.finalized_at else None
    newest_or_draft = newest or _FIRST_VERSION - 1
    return max(newest_or_draft + 1, _FIRST_VERSION + (max(age.days, 0) if age else 0))


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
        "meter": "lookups",
        "percent": 80,
        "quantity": 800,
        "included": 1000,
        "spent": None,
        "cap": None,
        "period_end": "2026-03-31",
    },
)
