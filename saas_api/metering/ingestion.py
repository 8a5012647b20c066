"""Ingestion of usage events that a service sends after the fact: whole batches, each event exactly once."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from saas_api.accounts import organizations
from saas_api.accounts.models import OrganizationStatus
from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.db import cells, engine, tenancy
from saas_api.core.errors import ServiceUnavailable, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.settings import setting
from saas_api.metering import event_format, subjects, usage_counters
from saas_api.metering.event_format import EventReader, ReceivedEvent
from saas_api.metering.subjects import UsageSubject
from saas_api.services.service_tokens import ServicePrincipal
from saas_api.usage import ledger_batches, meters
from saas_api.usage.ledger_batches import BatchedUsage, RowOutcome

MAX_EVENTS = 1_000
"""In one batch."""
MAX_ATTEMPTS = 4


class UnknownSubject(ValidationFailed):
    """The subject of an event is no organization, API key or external id."""

    code, message = "UNKNOWN_SUBJECT", "There is no organization, API key or external id of this name."


class TooOld(ValidationFailed):
    """The event happened in a closed billing period, more than LATE_USAGE_DAYS ago."""

    code, message = "TOO_OLD", "The billing period of this event was closed too long ago."


class UsedAfterClosing(ValidationFailed):
    """The event happened after its organization was closed, or no billing period of it is left to pay."""

    code, message = "ORGANIZATION_CLOSED", "This organization is closed; no billing period pays for the event."


@dataclass(frozen=True)
class EventProblem:
    """Why one event was rejected.

    index: in the batch, from 0
    id: of the event; None if it has none that can be shown
    """

    index: int
    id: str | None
    code: str
    message: str


@dataclass
class Ingestion:
    """Result of a batch.

    accepted: recorded by this call
    duplicates: recorded before, or earlier in the batch
    errors: of the rejected events, by index
    """

    accepted: int = 0
    duplicates: int = 0
    errors: list[EventProblem] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        return len(self.errors)

    def reject(self, index: int, event_id: str | None, error: ValidationFailed) -> None:
        """Count a rejected event."""
        self.errors.append(EventProblem(index, event_id, error.code, error.message))


@dataclass(frozen=True)
class _Batch:
    """What is sent to PostgreSQL: the rows in the order of their locks, with the events at the same positions."""

    rows: Sequence[BatchedUsage]
    events: Sequence[ReceivedEvent]
    organization_ids: frozenset[UUID]
    now: datetime


def ingest(events: Sequence[Any], service: ServicePrincipal, *, is_cloud_event: bool) -> Ingestion:
    """Record the usage events of a service, in a transaction of its own in each cell, committed on return.

    Every acceptable event is recorded, whatever is wrong with the others, and whatever limits and caps say: what is
    used is used. Events with the organization, source and id of an earlier one count nothing, so a repeat is safe.
    events: at most MAX_EVENTS, JSON-ready
    is_cloud_event: they must be CloudEvents 1.0
    raises: OperationalError with nothing written in the cell that failed; OrganizationMoving
    """
    result, now = Ingestion(), clock.now()
    reader = EventReader(meters.cached_meters(service.generation), service.name, is_cloud_event, now)
    received = _read(reader, events, result)
    batch = _make_batch(received, now, result)
    for cell, part in _split_by_cell(batch):
        with cells.use(cell):
            outcomes = _record(part)
        fault_point("events.after_commit")
        _count(part, outcomes, result)
    result.errors.sort(key=lambda problem: problem.index)
    return result


def _read(reader: EventReader, events: Sequence[Any], result: Ingestion) -> list[ReceivedEvent]:
    received = []
    for index, event in enumerate(events):
        try:
            received.append(reader.read(index, event))
        except ValidationFailed as error:
            result.reject(index, event_format.read_id(event), error)
    return received


def _make_batch(received: Sequence[ReceivedEvent], now: datetime, result: Ingestion) -> _Batch:
    known = subjects.find_subjects({event.subject for event in received})
    unique: dict[tuple[int, str, str, bool], tuple[ReceivedEvent, UsageSubject]] = {}
    for event in received:
        subject = known.get(event.subject)
        if subject is None:
            result.reject(event.position, event.id, UnknownSubject())
            continue
        if subject.closed_at is not None and event.at >= subject.closed_at:
            result.reject(event.position, event.id, UsedAfterClosing())
            continue
        key = (subject.organization_id.int, event.source, event.id, subject.is_test)
        if unique.setdefault(key, (event, subject))[0] is not event:
            result.duplicates += 1
    ordered = [unique[key] for key in sorted(unique)]
    # Ids rise in the order of the batch, because a meter's latest value of several at one instant is that of the last.
    positions = sorted(event.position for event, _ in ordered)
    row_ids = dict(zip(positions, ids.new_ids(len(positions)), strict=True))
    rows = [_to_row(n, event, subject, row_ids[event.position]) for n, (event, subject) in enumerate(ordered)]
    organization_ids = frozenset(subject.organization_id for _, subject in ordered)
    return _Batch(rows, [event for event, _ in ordered], organization_ids, now)


def _to_row(n: int, event: ReceivedEvent, subject: UsageSubject, row_id: UUID) -> BatchedUsage:
    return {
        "n": n,
        "organization_id": subject.organization_id,
        "id": row_id,
        "source": event.source,
        "key": event.id,
        "meter": event.meter.code,
        "quantity": str(event.quantity),
        "at": event.at,
        "api_key_id": subject.api_key_id,
        "properties": orjson.Fragment(event.properties),
        "unique_value": event.unique_value,
        "is_test": subject.is_test,
    }


def _split_by_cell(batch: _Batch) -> Iterator[tuple[str | None, _Batch]]:
    groups = cells.group_by_cell(batch.organization_ids)
    for cell, owners in groups.items():
        if len(groups) == 1:
            yield cell, batch
            continue
        chosen = [pair for pair in zip(batch.rows, batch.events, strict=True) if pair[0]["organization_id"] in owners]
        rows: Sequence[BatchedUsage] = [{**row, "n": n} for n, (row, _) in enumerate(chosen)]
        yield cell, _Batch(rows, [event for _, event in chosen], frozenset(owners), batch.now)


def _record(batch: _Batch) -> Mapping[int, RowOutcome]:
    """Append the rows; what is returned was not appended.

    raises: ServiceUnavailable when no billing period can be opened
    """
    oldest = batch.now - timedelta(days=setting("LATE_USAGE_DAYS"))
    closed_ids: set[UUID] = set()
    for _ in range(MAX_ATTEMPTS):
        statements = [
            tenancy.system_scope_statement("metering.events"),
            periods.shared_locks_statement(batch.organization_ids),
            ledger_batches.append_batch_statement(batch.rows, batch.organization_ids, closed_ids, batch.now, oldest),
        ]
        outcomes = {n: RowOutcome(outcome) for n, outcome in engine.execute_batch(statements)}
        waiting: dict[UUID, datetime] = defaultdict(lambda: batch.now)
        for n, outcome in outcomes.items():
            if outcome == RowOutcome.WITHOUT_PERIOD:
                organization_id, at = batch.rows[n]["organization_id"], batch.rows[n]["at"]
                waiting[organization_id] = max(waiting[organization_id], at)
        if waiting.keys() <= closed_ids:
            return outcomes
        closed_ids |= _open_periods(waiting)
    raise ServiceUnavailable


def _open_periods(organization_ids: Mapping[UUID, datetime]) -> set[UUID]:
    """Open the billing periods that contain an instant, by organization; returns those that are closed and get none."""
    closed_ids = set()
    for organization_id, at in organization_ids.items():
        with tenancy.tenant_session(organization_id) as session:
            organization = organizations.get_organization(session, organization_id)
            if organization.status == OrganizationStatus.CLOSED:
                closed_ids.add(organization_id)
                continue
            periods.ensure_account(session, organization_id)
            periods.ensure_period(session, organization_id, at)
    return closed_ids


def _count(batch: _Batch, outcomes: Mapping[int, RowOutcome], result: Ingestion) -> None:
    appended: dict[UUID, list[ReceivedEvent]] = defaultdict(list)
    for n, (row, event) in enumerate(zip(batch.rows, batch.events, strict=True)):
        outcome = outcomes.get(n)
        if outcome == RowOutcome.DUPLICATE:
            result.duplicates += 1
        elif outcome == RowOutcome.TOO_OLD:
            result.reject(event.position, event.id, TooOld())
        elif outcome == RowOutcome.WITHOUT_PERIOD:
            result.reject(event.position, event.id, UsedAfterClosing())
        else:
            result.accepted += 1
            if not row["is_test"]:
                appended[row["organization_id"]].append(event)
    usage_counters.add_usage(appended)
