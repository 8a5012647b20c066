"""The registry of event types: description, schema class, example; JSON Schema derived."""

from dataclasses import dataclass
from typing import Any

from saas_api.webhooks import payload

TEST_EVENT_TYPE = "webhook.test"
EXPLICIT_ONLY_TYPES = frozenset({"message.accepted"})
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
    TEST_EVENT_TYPE: ("test", "Asked for by you, to try an endpoint.", {}),
}


def _schema(kind: str, name: str) -> dict[str, Any]:
    properties = {
        "id": {"type": "string", "pattern": "^evt_[0-9a-f]{32}$", "description": "The same in every repeat."},
        "type": {"const": kind},
        "timestamp": {"type": "string", "format": "date-time"},
        "mode": {"enum": ["live", "test"]},
        "organization_id": {"type": "string", "pattern": "^org_[0-9a-f]{32}$"},
        "data": OBJECT_SCHEMAS[name],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


JsonSchema = dict[str, Any]

_TEXT: JsonSchema = {"type": "string"}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_AMOUNT: JsonSchema = {
    "type": "string",
    "pattern": r"^-?[0-9]+(\.[0-9]+)?$",
    "description": "Major units, such as 29.00.",
}
_CURRENCY: JsonSchema = {"type": "string", "pattern": "^[A-Z]{3}$"}
_INSTANT: JsonSchema = {"type": "string", "format": "date-time"}
_DAY: JsonSchema = {"type": "string", "format": "date"}
_MODE: JsonSchema = {"enum": ["live", "test"]}
_VERSION: JsonSchema = {
    **_COUNT,
    "description": "Rises with every change of the object; trust the highest you have seen.",
}


def _id(prefix: str) -> JsonSchema:
    return {"type": "string", "pattern": f"^{prefix}_[0-9a-f]{{32}}$"}


def _nullable(shape: JsonSchema) -> JsonSchema:
    return {"anyOf": [shape, {"type": "null"}]}


def _object(name: str, properties: dict[str, JsonSchema]) -> JsonSchema:
    shapes = {"object": {"const": name}, **properties}
    return {"type": "object", "required": list(shapes), "properties": shapes}


OBJECT_SCHEMAS: dict[str, JsonSchema] = {
    "message": _object(
        "message",
        {
            "message_id": _id("msg"),
            "to": _TEXT,
            "type": {"enum": ["sms", "email"]},
            "status": {"enum": ["queued", "sending", "sent", "delivered", "failed", "canceled"]},
            "segments": _COUNT,
            "mode": _MODE,
            "attempts": _COUNT,
            "error_code": _nullable(_TEXT),
        },
    ),
    "api_key": _object(
        "api_key",
        {
            "id": _id("key"),
            "name": _TEXT,
            "mode": _MODE,
            "masked": _TEXT,
            "is_active": {"type": "boolean"},
            "old_expires_at": _nullable(_INSTANT),
        },
    ),
    "spend_cap": _object("spend_cap", {"amount": _AMOUNT, "currency": _CURRENCY, "action": _TEXT}),
    "usage": _object(
        "usage",
        {
            "meter": {**_nullable(_TEXT), "description": "Null for an alert on money: see `spent`."},
            "percent": {**_nullable(_COUNT), "description": "Null for an alert on an absolute amount."},
            "quantity": _nullable({"type": "number"}),
            "included": _nullable({"type": "number"}),
            "spent": {**_nullable(_AMOUNT), "description": "Null for an alert on a meter."},
            "cap": _nullable(_AMOUNT),
            "period_end": _DAY,
        },
    ),
    "subscription": _object(
        "subscription",
        {
            "id": _id("sub"),
            "status": _TEXT,
            "plan": _TEXT,
            "previous_plan": _nullable(_TEXT),
            "canceled_at": _nullable(_INSTANT),
        },
    ),
    "invoice": _object(
        "invoice",
        {
            "id": _id("inv"),
            "number": _nullable(_TEXT),
            "status": _TEXT,
            "total_amount": _AMOUNT,
            "currency": _CURRENCY,
            "due_date": _nullable(_DAY),
            "paid_at": _nullable(_INSTANT),
            "attempt": _COUNT,
            "next_attempt_at": _nullable(_INSTANT),
            "version": _VERSION,
        },
    ),
    "payment": _object(
        "payment",
        {
            "payment_id": _id("pay"),
            "status": _TEXT,
            "invoice_id": _nullable(_id("inv")),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
            "provider": _TEXT,
            "refunded": _AMOUNT,
            "error": _nullable(_TEXT),
        },
    ),
    "test": _object("test", {"id": _id("tst"), "message": _TEXT}),
    "organization": _object("organization", {"id": _id("org"), "status": _TEXT, "reason": _nullable(_TEXT)}),
    "webhook_endpoint": _object("webhook_endpoint", {"id": _id("whe"), "status": _TEXT, "url": _TEXT}),
}

OBJECT_EXAMPLES: dict[str, dict[str, Any]] = {
    "message": {
        "object": "message",
        "message_id": "msg_018f3c6a9d2e7a018b4c5d6e7f80aa01",
        "to": "+15005550006",
        "type": "sms",
        "status": "delivered",
        "segments": 1,
        "mode": "live",
        "attempts": 1,
        "error_code": None,
    },
    "api_key": {
        "object": "api_key",
        "id": "key_018f3c6a9d2e7a018b4c5d6e7f80bb02",
        "name": "ci",
        "mode": "live",
        "masked": "sk_live_4Kd1...9aF2",
        "is_active": True,
        "old_expires_at": None,
    },
    "spend_cap": {"object": "spend_cap", "amount": "50.00", "currency": "USD", "action": "block"},
    "usage": {
        "object": "usage",
        "meter": "sms",
        "percent": 80,
        "quantity": 800,
        "included": 1000,
        "spent": None,
        "cap": None,
        "period_end": "2026-03-31",
    },
    "subscription": {
        "object": "subscription",
        "id": "sub_018f3c6a9d2e7a018b4c5d6e7f80cc03",
        "status": "active",
        "plan": "free",
        "previous_plan": None,
        "canceled_at": None,
    },
    "invoice": {
        "object": "invoice",
        "id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
        "number": "INV-000042",
        "status": "open",
        "total_amount": "29.41",
        "currency": "USD",
        "due_date": "2026-03-08",
        "paid_at": None,
        "attempt": 0,
        "next_attempt_at": None,
        "version": 2,
    },
    "payment": {
        "object": "payment",
        "payment_id": "pay_018f3c6a9d2e7a018b4c5d6e7f80ee05",
        "status": "succeeded",
        "invoice_id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
        "amount": "29.41",
        "currency": "USD",
        "provider": "stripe",
        "refunded": "0.00",
        "error": None,
    },
    "test": {"object": "test", "id": "tst_018f3c6a9d2e7a018b4c5d6e7f80ff06", "message": "It works."},
    "organization": {
        "object": "organization",
        "id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
        "status": "restricted",
        "reason": "overdue",
    },
    "webhook_endpoint": {
        "object": "webhook_endpoint",
        "id": "whe_018f3c6a9d2e7a018b4c5d6e7f801107",
        "status": "disabled_failing",
        "url": "https://a.example/hook",
    },
}


EVENT_TYPES: dict[str, EventType] = {
    kind: EventType(
        kind, description, _schema(kind, name), payload.example_payload(kind, {**OBJECT_EXAMPLES[name], **changes})
    )
    for kind, (name, description, changes) in _TYPES.items()
}
