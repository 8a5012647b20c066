"""The common request and response of POST /keys/verify, read and written by hand.

What is plainly right is done here, as `VerificationIn` and `VerificationOut` do it; everything else, and so every
error, is left to those schemas.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma

from saas_api.core import clock, ids
from saas_api.metering import usage_fields
from saas_api.metering.verification import RecordedUsage, Verification
from saas_api.usage import quantity_text

_ABSENT = {"permission": None, "meter": None, "quantity": None, "ip": None, "event_id": None, "hold_seconds": None}
_NEEDS_METER = frozenset({"quantity", "dimensions", "event_id"})


def load(body: Any) -> dict[str, Any] | None:
    """What `VerificationIn` loads; None for a body that the schema has to look at.

    Null, `ip` and `hold_seconds` are not common.
    """
    if type(body) is not dict or "key" not in body or ("meter" not in body and not _NEEDS_METER.isdisjoint(body)):
        return None
    try:
        loaded = {name: _LOADERS[name](value) for name, value in body.items()}
    except (KeyError, ValueError, ma.ValidationError):
        return None
    return {**_ABSENT, "dimensions": {}, "endpoint": None, **loaded}


def _text(maximum: int) -> Callable[[Any], str]:
    def load_text(value: Any) -> str:
        if type(value) is not str or not 0 < len(value) <= maximum:
            raise ValueError
        return value

    return load_text


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def load_matching(value: Any) -> str:
        if type(value) is not str or not pattern.match(value):
            raise ValueError
        return value

    return load_matching


def _load_quantity(value: Any) -> Decimal:
    if type(value) is not int:
        raise ValueError
    return quantity_text.parse_quantity(str(value))


def _load_dimensions(value: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise ValueError
    return usage_fields.load_dimensions(value)


_LOADERS: Mapping[str, Callable[[Any], Any]] = {
    "key": _text(255),
    "permission": _matching(usage_fields.SCOPE),
    "meter": _text(63),
    "quantity": _load_quantity,
    "dimensions": _load_dimensions,
    "event_id": _matching(usage_fields.PRINTABLE_ASCII),
    "endpoint": _matching(usage_fields.ENDPOINT),
}


def dump(answer: Verification) -> dict[str, Any] | None:
    """What `VerificationOut` dumps of a valid key; None for an answer that the schema has to write."""
    principal, recorded = answer.principal, answer.recorded
    terms = principal.terms if principal else None
    if not answer.is_valid or principal is None or terms is None or answer.spend is None:
        return None
    if recorded is not None and recorded.hold is not None:
        return None
    return {
        "valid": True,
        "code": answer.code,
        "key_id": ids.format_id("key", principal.id),
        "key_name": principal.name,
        "organization_id": ids.format_id("org", principal.organization_id),
        "external_id": terms.external_id,
        "mode": principal.mode,
        "scopes": list(answer.scopes),
        "plan": terms.plan_code,
        "entitlements": dict(terms.entitlements),
        "limits": [
            {
                "name": limit.name,
                "limit": limit.limit,
                "remaining": limit.remaining,
                "reset_at": clock.format_rfc3339(limit.reset_at),
            }
            for limit in answer.limits
        ],
        "spend": {"used": answer.spend.used, "cap": answer.spend.cap, "currency": answer.spend.currency},
        **_dump_recorded(recorded),
    }


def _dump_recorded(recorded: RecordedUsage | None) -> Mapping[str, Any]:
    if recorded is None:
        return {}
    units = usage_fields.write_units(recorded.units)
    if recorded.usage_event_id is None:
        return {"units": units}
    return {"usage_event_id": ids.format_id("uev", recorded.usage_event_id), "units": units}
