"""The catalogue of events: every type with what it means, its JSON Schema and an example.

Only what something in the product leads to stands here. There is no `subscription.canceled`: a subscription lasts as
long as its organization, and who pays no more goes back to the free plan, which is `subscription.updated`.
"""

from dataclasses import dataclass
from typing import Any

from saas_api.webhooks.rules.envelope import example
from saas_api.webhooks.rules.objects import EXAMPLES, SCHEMAS

TEST = "webhook.test"
ONLY_BY_NAME = frozenset({"message.accepted"})
"""Types that an endpoint gets only if it names them: they say what the answer to the request has said already."""


@dataclass(frozen=True)
class EventType:
    """One type of event.

    schema: JSON Schema of the whole payload
    example: a whole payload
    """

    type: str
    description: str
    schema: dict[str, Any]
    example: dict[str, Any]


_TYPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "message.accepted": (
        "message",
        "A message was accepted. Sent only to endpoints that name this type.",
        {"status": "queued", "attempts": 0},
    ),
    "message.sent": ("message", "The carrier or mail server took the message.", {"status": "sent"}),
    "message.delivered": ("message", "The message reached its recipient.", {}),
    "message.failed": (
        "message",
        "The message will not be delivered; `error_code` says why.",
        {"status": "failed", "error_code": "invalid_recipient"},
    ),
    "message.canceled": (
        "message",
        "The message was canceled before it left.",
        {"status": "canceled", "attempts": 0},
    ),
    "api_key.created": ("api_key", "An API key was made.", {}),
    "api_key.rotated": (
        "api_key",
        "An API key got a new secret; the old one works until `old_expires_at`.",
        {"masked": "sk_live_7Hq3...c0Qe", "old_expires_at": "2026-03-02T12:00:00.000Z"},
    ),
    "api_key.revoked": ("api_key", "An API key was revoked.", {"is_active": False}),
    "spend_cap.reached": ("spend_cap", "The spend cap of the running period was reached.", {}),
    "usage.threshold_reached": ("usage", "Usage of a meter reached a percentage of what is included.", {}),
    "subscription.created": ("subscription", "A subscription began.", {}),
    "subscription.updated": (
        "subscription",
        "The plan of a subscription changed.",
        {"plan": "pro", "previous_plan": "free"},
    ),
    "invoice.finalized": ("invoice", "An invoice got its number and can be paid.", {}),
    "invoice.paid": (
        "invoice",
        "An invoice is paid in full.",
        {"status": "paid", "paid_at": "2026-03-02T09:00:00.000Z", "version": 3},
    ),
    "invoice.payment_failed": (
        "invoice",
        "A payment of an invoice failed.",
        {"attempt": 1, "next_attempt_at": "2026-03-11T09:00:00.000Z", "version": 3},
    ),
    "invoice.overdue": ("invoice", "An invoice is past its due date.", {"attempt": 1, "version": 4}),
    "invoice.voided": ("invoice", "An invoice was voided: nothing is owed for it.", {"status": "void", "version": 3}),
    "invoice.marked_uncollectible": (
        "invoice",
        "An invoice was written off.",
        {"status": "uncollectible", "version": 5},
    ),
    "payment.succeeded": ("payment", "A payment arrived.", {}),
    "payment.failed": ("payment", "A payment failed.", {"status": "failed", "error": "card_declined"}),
    "payment.refunded": ("payment", "Money of a payment was given back.", {"refunded": "29.41"}),
    "organization.restricted": ("organization", "Sending is restricted until overdue invoices are paid.", {}),
    "organization.suspended": (
        "organization",
        "API keys are refused until the matter is settled.",
        {"status": "suspended"},
    ),
    "organization.resumed": (
        "organization",
        "Everything works again.",
        {"status": "active", "reason": None},
    ),
    "webhook_endpoint.disabled": (
        "webhook_endpoint",
        "An endpoint was disabled, because it failed for days or answered 410. Sent to the others.",
        {},
    ),
    TEST: ("test", "Asked for by you, to try an endpoint.", {}),
}


def _schema(kind: str, name: str) -> dict[str, Any]:
    properties = {
        "id": {"type": "string", "pattern": "^evt_[0-9a-f]{32}$", "description": "The same in every repeat."},
        "type": {"const": kind},
        "timestamp": {"type": "string", "format": "date-time"},
        "mode": {"enum": ["live", "test"]},
        "organization_id": {"type": "string", "pattern": "^org_[0-9a-f]{32}$"},
        "data": SCHEMAS[name],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


CATALOGUE: dict[str, EventType] = {
    kind: EventType(kind, description, _schema(kind, name), example(kind, {**EXAMPLES[name], **changes}))
    for kind, (name, description, changes) in _TYPES.items()
}
