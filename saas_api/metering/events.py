"""Event types of metered calls."""

from saas_api.metering.hold_schemas import HoldOut
from saas_api.metering.models import Hold
from saas_api.webhooks import event_types
from saas_api.webhooks.events import EventSubject, NewEvent

event_types.register(
    "hold.expired",
    schema=HoldOut,
    description="A hold was neither settled nor released in its time; it counts against no limit any more.",
    example={
        "hold_id": "hld_018f3c6a9d2e7a018b4c5d6e7f80c301",
        "status": "expired",
        "mode": "live",
        "organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
        "key_id": "key_018f3c6a9d2e7a018b4c5d6e7f80aa02",
        "service": "completions",
        "event_id": "req-8d1f",
        "meter": "tokens",
        "quantity": 4000,
        "dimensions": {"model": "large"},
        "endpoint": "POST /v1/completions",
        "created_at": "2026-03-01T11:45:00.000Z",
        "expires_at": "2026-03-01T12:00:00.000Z",
        "ended_at": "2026-03-01T12:00:12.000Z",
        "settled_quantity": None,
        "usage_event_id": None,
    },
)


def expired_event(hold: Hold) -> NewEvent:
    """The event of a hold that has expired."""
    return NewEvent("hold.expired", EventSubject(hold.id), event_types.dump_data("hold.expired", hold), hold.mode)
