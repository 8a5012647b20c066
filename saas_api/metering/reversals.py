"""Reversals of usage events, which services ask for."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.db import cells, tenancy
from saas_api.core.errors import Conflict, NotFound
from saas_api.metering import subjects
from saas_api.usage import ledger, sources


class UsageEventNotFound(NotFound):
    """The service has no usage event of this id; usage of test keys is never billed and cannot be reversed."""

    code, message = "EVENT_NOT_FOUND", "There is no usage event of this id and source."


class AmbiguousEvent(Conflict):
    """Several organizations have an event of this id and source."""

    code, message = "AMBIGUOUS_EVENT", "Several organizations have this event; name the subject."


class AlreadyReversed(Conflict):
    """The event is reversed already; it is reversed once."""

    code, message = "ALREADY_REVERSED", "This event is reversed already."


class EventArchived(Conflict):
    """The usage of the event's billing period is archived: what it was billed cannot change any more."""

    code, message = "EVENT_ARCHIVED", "This event is archived with its billing period and can no longer be reversed."


@dataclass(frozen=True)
class EventReference:
    """Which event a service means.

    id: the event's own, or ours, `uev_...`
    source: of the event; ours counts only with it
    subject: organization, key or external id; None for any organization
    """

    id: str
    source: str
    subject: str | None = None


@dataclass(frozen=True)
class Reversal:
    """A ledger row that takes an event back.

    quantity: that of the event, negated
    time: of the event
    """

    id: UUID
    reversal_of: UUID
    event_id: str
    source: str
    organization_id: UUID
    meter: str
    quantity: Decimal
    time: datetime
    created_at: datetime


# For each organization one search in a unique index, because no index begins with the event.
_FIND = """
SELECT o.id AS organization_id, u.id, u.month FROM organizations o JOIN LATERAL ({event}) u ON true
WHERE CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id LIMIT 2"""
_FIND_OWN_ID = sa.text(
    _FIND.format(
        event="""SELECT event_id AS id, month FROM usage_event_keys
          WHERE organization_id = o.id AND source = :source AND idempotency_key = :id"""
    )
)
_FIND_PUBLIC_ID = sa.text(
    _FIND.format(
        event="""SELECT id, month FROM usage_events
          WHERE organization_id = o.id AND source = :source AND id = CAST(:id AS uuid)"""
    )
)
_CHOSEN = """SELECT CAST(:event_id AS uuid) AS event_id, CAST(:month AS date) AS month,
  CAST(:reversal_id AS uuid) AS reversal_id"""
_GET = sa.text(f"""
SELECT r.id, r.reversal_of, u.idempotency_key AS event_id, u.source, r.organization_id, r.meter_code AS meter,
  r.quantity, r.occurred_at AS time, r.recorded_at AS created_at
FROM usage_event_keys k
JOIN usage_events r ON r.organization_id = k.organization_id AND r.id = k.event_id AND r.month = k.month
JOIN usage_events u ON u.organization_id = r.organization_id AND u.id = r.reversal_of AND u.month = :month
WHERE k.organization_id = :organization_id AND k.source = '{ledger.REVERSAL_SOURCE}'
  AND k.idempotency_key = CAST(CAST(:event_id AS uuid) AS text)""")


def reverse_event(reference: EventReference, idempotency_key: str | None = None) -> Reversal:
    """Take a usage event back, in a transaction of its own that is committed on return.

    A closed billing period keeps its invoice: the earliest open one pays then.
    idempotency_key: a repeat with it gets the same reversal
    raises: UsageEventNotFound, AmbiguousEvent, AlreadyReversed, EventArchived
    """
    event = _find_event(reference)
    organization_id = event.organization_id
    reversal_id = ids.new_id() if idempotency_key is None else uuid.uuid5(event.id, idempotency_key)
    values = {"event_id": event.id, "month": event.month, "reversal_id": reversal_id}
    with tenancy.tenant_session(organization_id) as session:
        periods.ensure_period(session, organization_id, clock.now())
        periods.lock_periods_shared(session, organization_id)
        ledger.reverse_events(session, organization_id, _CHOSEN, values)
        found = {"organization_id": organization_id, "event_id": event.id, "month": event.month}
        reversal = session.execute(_GET, found).mappings().one_or_none()
    if reversal is None:
        raise EventArchived
    if reversal["id"] != reversal_id:
        raise AlreadyReversed(details={"reversal_id": ids.format_id("uev", reversal["id"])})
    return Reversal(**reversal)


def _find_event(reference: EventReference) -> sa.Row[Any]:
    """Organization, id and month of an event.

    raises: UsageEventNotFound, AmbiguousEvent
    """
    is_own_source = reference.source == ledger.REVERSAL_SOURCE or reference.source in sources.endpoints
    if is_own_source or "\0" in reference.id:  # PostgreSQL has no texts with NUL
        raise UsageEventNotFound
    organization_id = None
    if reference.subject is not None:
        subject = subjects.find_subjects([reference.subject]).get(reference.subject)
        if subject is None:
            raise UsageEventNotFound
        organization_id = subject.organization_id
    values = {"source": reference.source, "organization_id": organization_id}
    found: dict[tuple[UUID, UUID], sa.Row[Any]] = {}

    def find_in_cell() -> bool | None:
        with tenancy.system_session("metering.reversals") as session:
            rows: Sequence[sa.Row[Any]] = []
            if ids.is_public_id(reference.id, "uev"):
                rows = session.execute(_FIND_PUBLIC_ID, {**values, "id": reference.id[4:]}).all()
            rows = rows or session.execute(_FIND_OWN_ID, {**values, "id": reference.id}).all()
        found.update(((row.organization_id, row.id), row) for row in rows)
        return True if len(found) > 1 or (found and organization_id) else None

    cells.search(find_in_cell)
    if not found:
        raise UsageEventNotFound
    if len(found) > 1:
        raise AmbiguousEvent
    return next(iter(found.values()))
