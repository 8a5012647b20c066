"""Meters of the catalogue: reads, publication, archiving, and what one event counts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.core import clock
from saas_api.core.db import row_copies, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.observability import get_logger
from saas_api.services import catalogue
from saas_api.services.catalogue import CachedCatalogue
from saas_api.usage import meter_copies, meter_file, quantity_text
from saas_api.usage.meter_file import Aggregation, MeterContent
from saas_api.usage.models import Meter

log = get_logger(__name__)

MAX_UNIQUE_VALUE_LENGTH = 255
_SMALLEST = Decimal("0.000001")
_FIRST_INEXACT = 10**9
_RESTRICT_VIOLATION = "23001"


class MeterNotFound(NotFound):
    """There is no meter with this code."""

    message = "There is no such meter."


class MeterHasUsage(Conflict):
    """A meter that has usage keeps its aggregation, value and unit, so that what is recorded keeps its meaning."""

    code = "METER_HAS_USAGE"
    message = (
        "This meter has usage, so its aggregation, value_property, unique_property and unit stay as they are; "
        "publish another meter."
    )


class MissingProperty(ValidationFailed):
    """An event lacks the property that its meter reads."""

    code, message = "MISSING_PROPERTY", "A property that the meter reads is missing."


class InvalidQuantity(ValidationFailed):
    """An event has a quantity or unique value that its meter cannot count."""

    code, message = "INVALID_QUANTITY", "The quantity cannot be counted."


@dataclass(frozen=True)
class PublishedMeter:
    """Result of publishing a meter.

    is_new: there was no such meter before
    changes: names of the changed fields; empty if the meter was so before
    """

    meter: MeterContent
    is_new: bool
    changes: tuple[str, ...]


def list_meters(session: Session, *, includes_archived: bool = True) -> list[Meter]:
    """Meters by code."""
    statement = select(Meter).order_by(Meter.code)
    if not includes_archived:
        statement = statement.where(Meter.archived_at.is_(None))
    return list(session.scalars(statement))


def get_meter(session: Session, code: str) -> Meter:
    """A meter by its code, archived or not.

    raises: MeterNotFound
    """
    meter = session.get(Meter, code)
    if meter is None:
        raise MeterNotFound
    return meter


def meter_content(meter: Meter) -> MeterContent:
    """Content of a stored meter, as a meter file has it."""
    values = {field.name: getattr(meter, field.name) for field in fields(MeterContent)}
    return MeterContent(**{**values, "dimensions": tuple(meter.dimensions)})


def all_meters(session: Session) -> dict[str, MeterContent]:
    """Meters by code, archived ones included."""
    return {meter.code: meter_content(meter) for meter in list_meters(session)}


def active_meters(session: Session) -> dict[str, MeterContent]:
    """Meters that are not archived, by code."""
    return {meter.code: meter_content(meter) for meter in list_meters(session, includes_archived=False)}


_catalogue = CachedCatalogue(active_meters)


def cached_meters(generation: int | None) -> Mapping[str, MeterContent]:
    """Meters that are not archived, by code, without a statement as long as the catalogue stays as it is.

    generation: as of `CachedCatalogue.get_entry`
    """
    return _catalogue.get(generation)


_LOCK_METERS = text("SELECT pg_advisory_xact_lock(hashtextextended('usage.meters', 0))")


def lock_meters(session: SystemSession) -> None:
    """Let one transaction at a time add meters."""
    session.execute(_LOCK_METERS)


def publish_meter(document: Any, actor: Actor, reason: str = "") -> PublishedMeter:
    """Create or change the meter of a meter file, in a transaction of its own. Idempotent.

    What is rolled up already keeps the dimensions that the meter had then, until the rollups are rebuilt.

    document: the parsed file
    reason: for the audit log
    raises: InvalidDocument with every problem; MeterHasUsage
    """
    content = meter_file.load_meter(document)
    try:
        with tenancy.system_session("usage.meters") as session:
            lock_meters(session)
            published = _publish(session, content, actor, reason)
    except IntegrityError as error:
        if getattr(error.orig, "pgcode", None) == _RESTRICT_VIOLATION:
            raise MeterHasUsage from error
        raise
    row_copies.push(meter_copies.copy_meters)
    return published


def _publish(session: SystemSession, content: MeterContent, actor: Actor, reason: str) -> PublishedMeter:
    meter = session.get(Meter, content.code, with_for_update=True)
    old = meter_file.to_document(meter_content(meter)) if meter else {}
    new = meter_file.to_document(content)
    changes = {name: [old.get(name), new.get(name)] for name in {**old, **new} if old.get(name) != new.get(name)}
    if changes:
        add_meter(session, content)
        action = "meter.changed" if meter else "meter.published"
        data = {"changes": changes, **({"reason": reason} if reason else {})}
        audit.record_event(session, None, actor, action, ("meter", content.code), data)
        session.flush()  # the trigger refuses the change here
        log.info("meter_published", meter=content.code, changes=list(changes))
    return PublishedMeter(content, meter is None, tuple(changes))


def add_meter(session: SystemSession, content: MeterContent) -> None:
    """Write a meter in the transaction of the caller, which holds `lock_meters` and records the change."""
    session.merge(Meter(**{**asdict(content), "dimensions": list(content.dimensions)}))
    catalogue.bump(session)


def archive_meter(code: str, actor: Actor, reason: str = "", *, is_undone: bool = False) -> bool:
    """Archive a meter, in a transaction of its own. Idempotent.

    It takes no new usage; what is recorded stays priced, billed and shown.

    reason: for the audit log
    is_undone: let the meter take usage again
    returns: whether the meter changed
    raises: MeterNotFound
    """
    with tenancy.system_session("usage.meters") as session:
        meter = session.get(Meter, code, with_for_update=True)
        if meter is None:
            raise MeterNotFound
        if (meter.archived_at is None) == is_undone:
            return False
        meter.archived_at = None if is_undone else clock.now()
        catalogue.bump(session)
        action = "meter.restored" if is_undone else "meter.archived"
        audit.record_event(session, None, actor, action, ("meter", code), {"reason": reason})
    return True


def event_quantity(
    meter: MeterContent, quantity: Decimal | None, properties: Mapping[str, Any]
) -> tuple[Decimal, str | None]:
    """What one event counts: its quantity, and the value whose distinct ones a meter of kind UNIQUE counts. Pure.

    quantity: of the event; None if it names none
    properties: of the event, JSON-ready
    raises: MissingProperty; InvalidQuantity unless 0 < quantity <= 10^12 with at most six decimals
    """
    if meter.aggregation == Aggregation.COUNT:
        return Decimal(1), None
    if meter.unique_property is not None:
        return Decimal(1), _unique_value(meter.unique_property, _property(meter.unique_property, properties))
    if meter.value_property is None:
        return _valid_quantity("quantity", Decimal(1) if quantity is None else quantity), None
    value = parse_number(_property(meter.value_property, properties))
    return _valid_quantity(meter.value_property, value), None


def _property(name: str, properties: Mapping[str, Any]) -> Any:
    value = properties.get(name)
    if value is None:
        raise MissingProperty(f"The property {name} is missing; the meter reads it.", details={"property": name})
    return value


def parse_number(value: Any) -> Decimal:
    """A JSON number as it was written, or a decimal string; NaN for anything else.

    JSON parsers keep 15 digits of a number with a fraction, so from 10^9 on it is NaN, and a decimal string is exact.
    """
    if isinstance(value, str):
        return Decimal(value if quantity_text.DECIMAL.fullmatch(value) else "NaN")
    if value is None or isinstance(value, bool | list | dict):
        return Decimal("NaN")
    number = Decimal(json.dumps(value))
    is_exact = number.is_finite() and (isinstance(value, int) or abs(number) < _FIRST_INEXACT)
    return number if is_exact else Decimal("NaN")


def _valid_quantity(name: str, quantity: Decimal) -> Decimal:
    is_in_range = quantity.is_finite() and 0 < quantity <= quantity_text.MAX_EVENT_QUANTITY
    if not is_in_range or quantity % _SMALLEST:
        raise InvalidQuantity(
            f"{name} must be a number above 0 and at most {quantity_text.MAX_EVENT_QUANTITY:f}, "
            "with at most six decimals.",
            details={"property": name},
        )
    return quantity


def _unique_value(name: str, value: Any) -> str:
    unique = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, dict | list) or not 1 <= len(unique) <= MAX_UNIQUE_VALUE_LENGTH or "\0" in unique:
        raise InvalidQuantity(
            f"{name} must be a text of 1 to {MAX_UNIQUE_VALUE_LENGTH} characters, or a number.",
            details={"property": name},
        )
    return unique
