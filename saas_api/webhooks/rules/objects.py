"""The shapes of what events carry: one JSON Schema and one whole example for each kind of object."""

from typing import Any

Shape = dict[str, Any]

_TEXT: Shape = {"type": "string"}
_COUNT: Shape = {"type": "integer", "minimum": 0}
_AMOUNT: Shape = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "description": "Major units, such as 29.00."}
_CURRENCY: Shape = {"type": "string", "pattern": "^[A-Z]{3}$"}
_INSTANT: Shape = {"type": "string", "format": "date-time"}
_DAY: Shape = {"type": "string", "format": "date"}
_MODE: Shape = {"enum": ["live", "test"]}
_VERSION: Shape = {**_COUNT, "description": "Rises with every change of the object; trust the highest you have seen."}


def _id(prefix: str) -> Shape:
    return {"type": "string", "pattern": f"^{prefix}_[0-9a-f]{{32}}$"}


def _or_null(shape: Shape) -> Shape:
    return {"anyOf": [shape, {"type": "null"}]}


def _object(name: str, properties: dict[str, Shape]) -> Shape:
    shapes = {"object": {"const": name}, **properties}
    return {"type": "object", "required": list(shapes), "properties": shapes}


SCHEMAS: dict[str, Shape] = {
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
            "error_code": _or_null(_TEXT),
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
            "old_expires_at": _or_null(_INSTANT),
        },
    ),
    "spend_cap": _object("spend_cap", {"amount": _AMOUNT, "currency": _CURRENCY, "action": _TEXT}),
    "usage": _object(
        "usage",
        {
            "meter": {**_or_null(_TEXT), "description": "Null for an alert on money: see `spent`."},
            "percent": {**_or_null(_COUNT), "description": "Null for an alert on an absolute amount."},
            "quantity": _or_null({"type": "number"}),
            "included": _or_null({"type": "number"}),
            "spent": {**_or_null(_AMOUNT), "description": "Null for an alert on a meter."},
            "cap": _or_null(_AMOUNT),
            "period_end": _DAY,
        },
    ),
    "subscription": _object(
        "subscription",
        {
            "id": _id("sub"),
            "status": _TEXT,
            "plan": _TEXT,
            "previous_plan": _or_null(_TEXT),
            "canceled_at": _or_null(_INSTANT),
        },
    ),
    "invoice": _object(
        "invoice",
        {
            "id": _id("inv"),
            "number": _or_null(_TEXT),
            "status": _TEXT,
            "total_amount": _AMOUNT,
            "currency": _CURRENCY,
            "due_date": _or_null(_DAY),
            "paid_at": _or_null(_INSTANT),
            "attempt": _COUNT,
            "next_attempt_at": _or_null(_INSTANT),
            "version": _VERSION,
        },
    ),
    "payment": _object(
        "payment",
        {
            "payment_id": _id("pay"),
            "status": _TEXT,
            "invoice_id": _or_null(_id("inv")),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
            "provider": _TEXT,
            "refunded": _AMOUNT,
            "error": _or_null(_TEXT),
        },
    ),
    "test": _object("test", {"id": _id("tst"), "message": _TEXT}),
    "organization": _object("organization", {"id": _id("org"), "status": _TEXT, "reason": _or_null(_TEXT)}),
    "webhook_endpoint": _object("webhook_endpoint", {"id": _id("whe"), "status": _TEXT, "url": _TEXT}),
}

EXAMPLES: dict[str, dict[str, Any]] = {
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
