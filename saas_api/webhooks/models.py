"""Events, endpoints with their signing secrets, and deliveries with their attempts."""

import uuid
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import BigInteger, DateTime, FetchedValue, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.access import KeyMode
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText


class EndpointStatus(StrEnum):
    """Whether an endpoint receives events, and if not, why."""

    ENABLED = "enabled"
    DISABLED_MANUAL = "disabled_manual"
    DISABLED_FAILING = "disabled_failing"
    DISABLED_GONE = "disabled_gone"


class PayloadFormat(StrEnum):
    """How much of an object an endpoint receives."""

    FULL = "full"
    THIN = "thin"


class DeliveryCause(StrEnum):
    """Why a delivery exists: the event was published, replayed or sent as a test."""

    AUTO = "auto"
    REPLAY = "replay"
    TEST = "test"


class DeliveryStatus(StrEnum):
    """Progress of a delivery; `queued` and `sending` are not final."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELED = "canceled"


class DeliveryState(StrEnum):
    """Status of a delivery as customers see it: between two attempts it is `retrying`, before the first `queued`."""

    QUEUED = "queued"
    RETRYING = "retrying"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELED = "canceled"


class AttemptOutcome(StrEnum):
    """Result of one HTTP request; `started` until it is known."""

    STARTED = "started"
    OK = "ok"
    HTTP_ERROR = "http_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BLOCKED = "blocked"
    INTERRUPTED = "interrupted"


class Event(Model):
    """Something that happened, with the exact payload that is signed; endpoints of its mode receive it."""

    __tablename__ = "events"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    sequence: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    type: Mapped[str] = mapped_column(Text)
    mode: Mapped[KeyMode] = mapped_column(EnumText(KeyMode), server_default=FetchedValue())
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    payload: Mapped[str] = mapped_column(Text)
    subject_id: Mapped[uuid.UUID]
    subject_version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class Endpoint(Model):
    """A URL of an organization that receives its events of one mode, which never changes."""

    __tablename__ = "webhook_endpoints"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    mode: Mapped[KeyMode] = mapped_column(EnumText(KeyMode), server_default=FetchedValue())
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    event_types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    status: Mapped[EndpointStatus] = mapped_column(EnumText(EndpointStatus), server_default=FetchedValue())
    payload: Mapped[PayloadFormat] = mapped_column(EnumText(PayloadFormat), server_default=FetchedValue())
    in_flight_limit: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    max_in_flight: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    consecutive_failures: Mapped[int] = mapped_column(server_default=FetchedValue())
    first_failure_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_failure_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_success_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class EndpointSecret(Model):
    """A signing secret of an endpoint; several are active during a rotation."""

    __tablename__ = "webhook_secrets"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    endpoint_id: Mapped[uuid.UUID]
    secret_encrypted: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class Delivery(Model):
    """One event for one endpoint. `next_at` is the next attempt of a queued one, the lease expiry of a sending one."""

    __tablename__ = "webhook_deliveries"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    event_id: Mapped[uuid.UUID]
    endpoint_id: Mapped[uuid.UUID]
    cause: Mapped[DeliveryCause] = mapped_column(EnumText(DeliveryCause), server_default=FetchedValue())
    status: Mapped[DeliveryStatus] = mapped_column(EnumText(DeliveryStatus), server_default=FetchedValue())
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    interruptions: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    next_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lease_token: Mapped[uuid.UUID | None]
    last_status: Mapped[int | None] = mapped_column(SmallInteger)
    error_code: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())

    @property
    def state(self) -> DeliveryState:
        """The status as customers see it."""
        return delivery_state(self.status, self.attempts)


def delivery_state(status: str, attempts: int) -> DeliveryState:
    """Return the status of a delivery as customers see it."""
    return DeliveryState.RETRYING if status == DeliveryStatus.QUEUED and attempts else DeliveryState(status)


def is_in_state(state: str, delivery: type[Delivery] = Delivery) -> sa.ColumnElement[bool]:
    """Condition of the deliveries whose `delivery_state` is a given one, as the indexes name it.

    delivery: an alias of the table
    """
    if state == DeliveryState.RETRYING:
        return sa.and_(delivery.status == DeliveryStatus.QUEUED, delivery.attempts > 0)
    is_status = delivery.status == DeliveryStatus(state)
    return sa.and_(is_status, delivery.attempts == 0) if state == DeliveryState.QUEUED else is_status


class Attempt(Model):
    """One HTTP request of a delivery.

    payload_format: of its body; NULL for attempts made before it was recorded
    request_headers: as sent; NULL until the result is known, and when nothing was sent
    """

    __tablename__ = "webhook_attempts"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    delivery_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    duration_ms: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[AttemptOutcome] = mapped_column(EnumText(AttemptOutcome))
    response_snippet: Mapped[str | None] = mapped_column(Text)
    payload_format: Mapped[PayloadFormat | None] = mapped_column(EnumText(PayloadFormat))
    request_headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
