"""`@metered` makes a view of this application a metered call."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import g

from saas_api.core import access, clock, ids, request_context
from saas_api.core.db import engine
from saas_api.core.db.prepared import Statement
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.jobs import queue
from saas_api.core.web.endpoint import Operation, ViewResult
from saas_api.metering import holds, limits, recording
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.services import catalogue
from saas_api.usage import meters, sources
from saas_api.usage.ledger import MeteredUsage, UsageRecord

View = Callable[..., Any]
Body = Mapping[str, Any]


class MeterUnavailable(ServiceUnavailable):
    """The meter of the call is not in the catalogue, or is archived: publish it, or undo that."""

    code, message = "METER_UNAVAILABLE", "This call cannot be metered right now."


@dataclass(frozen=True)
class Batch:
    """Result of a view with `is_batch`: its data, and what is written with the usage in one round trip.

    statements: for `engine.execute_batch`
    key: idempotency key of the usage; None for one of its own
    jobs: of workers that have work after the commit
    """

    data: Any
    statements: Sequence[Statement] = ()
    key: str | None = None
    message_id: UUID | None = None
    at: datetime = field(default_factory=clock.now)
    jobs: Sequence[str] = ()


@dataclass(frozen=True)
class EndpointMetering:
    """Meters the calls of one view; implements `core.web.endpoint.Metering`.

    meter: a code, or a function of the body that returns one
    quantity: a number, a function of the body, or a function of body and answer
    properties: function of the body that returns the dimensions of the usage
    source: of the usage in the ledger, such as "messages.send"
    """

    source: str
    meter: str | Callable[[Body], str]
    quantity: Decimal | int | Callable[..., Decimal | int] = 1
    properties: Callable[[Body], Mapping[str, str]] | None = None
    is_batch: bool = False

    def expected_usage(self, arguments: Mapping[str, Any]) -> list[MeteredUsage]:
        """What a call uses; one unit where only the answer says it."""
        call_usage = g.call_usage = self._usage(arguments, None)
        return [call_usage[0]]

    def record(self, arguments: Mapping[str, Any], result: Any) -> Any:
        """Record the usage in the transaction of the view, or in one round trip where the view has none."""
        batch = result if isinstance(result, Batch) else Batch(result)
        data = batch.data.data if isinstance(batch.data, ViewResult) else batch.data
        used, unique_value = self._usage(arguments, data) if self._needs_answer else g.call_usage
        values = request_context.current_values()
        event_id, principal = ids.new_id(), values.principal
        event = UsageRecord(
            id=event_id,
            source=self.source,
            key=batch.key or str(event_id),
            meter=used.meter,
            quantity=used.quantity,
            at=batch.at,
            api_key_id=principal.id,
            message_id=batch.message_id,
            properties=used.properties,
            unique_value=unique_value,
        )
        self._write(principal, event, batch)
        decision = values.gate_call.decision
        if [used] != list(values.usage) and decision is not None and not decision.is_local:
            limits.adjust_counters(principal, values.usage, [used])
        for job in batch.jobs:
            queue.wake_workers(job)
        return batch.data

    def _write(self, principal: KeyPrincipal, event: UsageRecord, batch: Batch) -> None:
        if not self.is_batch and engine.session().in_transaction():
            recording.record_in_session(engine.session(), principal, g.gate_call, event)
            return
        stored = (g.idempotent_request, batch.data) if self.is_batch and g.idempotent_request else None
        recording.record(principal, g.gate_call, event, batch.statements, stored)

    def _usage(self, arguments: Mapping[str, Any], answer: Any) -> tuple[MeteredUsage, str | None]:
        """The usage of a call, and the value that a meter with aggregation unique counts."""
        body = arguments.get("body", {})
        code = self.meter(body) if callable(self.meter) else self.meter
        meter = meters.cached_meters(None).get(code) or meters.cached_meters(catalogue.read_generation()).get(code)
        if meter is None:
            raise MeterUnavailable
        properties = self.properties(body) if self.properties else {}
        return holds.call_usage(meter, self._quantity(body, answer), properties)

    @functools.cached_property
    def _needs_answer(self) -> bool:
        return callable(self.quantity) and len(inspect.signature(self.quantity).parameters) > 1

    def _quantity(self, body: Body, answer: Any) -> Decimal:
        if not callable(self.quantity):
            return Decimal(self.quantity)
        if not self._needs_answer:
            return Decimal(self.quantity(body))
        return Decimal(1) if answer is None else Decimal(self.quantity(body, answer))


def metered(
    meter: str | Callable[[Body], str],
    *,
    permission: str,
    quantity: Decimal | int | Callable[..., Decimal | int] = 1,
    properties: Callable[[Body], Mapping[str, str]] | None = None,
    is_batch: bool = False,
) -> Callable[[View], View]:
    """Make a view a metered call: API keys with the permission only, limits, quota, cap, dunning, and usage.

    Stands above `@endpoint`. The usage is recorded in the transaction of the view, after it; an error of the view
    records nothing.
    meter: code of a meter, or a function of the body that returns one
    permission: which only API keys have
    quantity: in the meter's unit, above 0: a number, a function of the body, or a function of body and answer
    properties: function of the body that returns the dimensions by which the call is priced
    is_batch: the view writes nothing and returns a `Batch`
    raises: ValueError for a permission that users have, since only API keys are metered
    """
    if access.PERMISSIONS[permission]:
        raise ValueError(f"{permission} is a permission of users; a metered call needs one that no role has")

    def declare(view: View) -> View:
        operation: Operation = view.__operation__  # type: ignore[attr-defined]  # set by @endpoint
        source = f"{view.__module__.split('.')[1]}.{view.__name__}"
        metering = EndpointMetering(source, meter, quantity, properties, is_batch)
        view.__operation__ = replace(operation, metering=metering)  # type: ignore[attr-defined]  # as above
        return access.require_permission(permission, is_metered=True)(view)

    return declare


def register_source(view: View, method: str, path: str) -> None:
    """Tell reports the endpoint of a metered view."""
    operation: Operation | None = getattr(view, "__operation__", None)
    if operation is not None and isinstance(operation.metering, EndpointMetering):
        sources.endpoints[operation.metering.source] = (method, path)
