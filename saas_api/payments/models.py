"""Tables of payments, refunds, provider events and dunning, with their statuses."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText
from saas_api.payments.dunning_schedule import DunningAction
from saas_api.providers.payments import SavedMethod


class PaymentStatus(StrEnum):
    """Status of a payment. Only a verified answer of the provider makes it `SUCCEEDED`."""

    CREATED = "created"
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    QUARANTINED = "quarantined"


PENDING_STATUSES = (PaymentStatus.CREATED, PaymentStatus.PENDING, PaymentStatus.REQUIRES_ACTION)


class PaymentMethodStatus(StrEnum):
    """Status of a saved payment method: `PENDING` while its page at the provider is open."""

    PENDING = "pending"
    ACTIVE = "active"
    CANCELED = "canceled"
    REMOVED = "removed"


class RefundStatus(StrEnum):
    """Status of a refund at its provider; a canceled one became wallet credit instead."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class ProviderEventStatus(StrEnum):
    """Status of a provider event in the inbox; a worker that processes it holds a `SENDING` one, as in every outbox."""

    QUEUED = "queued"
    SENDING = "sending"
    PROCESSED = "processed"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"


class DunningRunStatus(StrEnum):
    """Status of a dunning run: `RECOVERED` by a payment, `STOPPED` by a void invoice, or out of steps."""

    ACTIVE = "active"
    RECOVERED = "recovered"
    STOPPED = "stopped"
    EXHAUSTED = "exhausted"


class DunningStepStatus(StrEnum):
    """Status of a dunning step; steps of a run that ended early are `SKIPPED`."""

    SCHEDULED = "scheduled"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Payment(Model):
    """One attempt to pay an invoice.

    payment_method_id: the saved one that is charged; None for a checkout
    captured_minor: what the provider collected; `allocated_minor` of it paid the invoice, `excess_minor` went to the
        wallet, `disputed_minor` was withdrawn by a dispute that is open or lost
    """

    __tablename__ = "payments"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    invoice_id: Mapped[uuid.UUID]
    payment_method_id: Mapped[uuid.UUID | None]
    provider: Mapped[str] = mapped_column(Text)
    provider_reference: Mapped[str | None] = mapped_column(Text)
    checkout_url: Mapped[str | None] = mapped_column(Text)
    initiated_by: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    captured_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    allocated_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    excess_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    disputed_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    refunded_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    status: Mapped[PaymentStatus] = mapped_column("state", EnumText(PaymentStatus), server_default=FetchedValue())
    failure_code: Mapped[str | None] = mapped_column(Text)
    is_retryable: Mapped[bool | None]
    next_check_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    checks: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    settled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def is_pending(self) -> bool:
        """Whether the outcome is not known yet."""
        return self.status in PENDING_STATUSES

    @property
    def payment_url(self) -> str | None:
        """Checkout page of the provider while the payment is pending."""
        return self.checkout_url if self.is_pending else None


class PaymentMethod(Model):
    """A card that a provider keeps for an organization.

    setup_reference, setup_url: of the provider's page that saves it
    reference, customer_reference: by which the provider charges it; None once the provider has forgotten it
    charges_from: of a default method: invoices that became final before it are not charged automatically
    next_check_at: when the provider is asked about the setup, or told to forget the method
    """

    __tablename__ = "payment_methods"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    provider: Mapped[str] = mapped_column(Text)
    status: Mapped[PaymentMethodStatus] = mapped_column(
        "state", EnumText(PaymentMethodStatus), server_default=FetchedValue()
    )
    setup_reference: Mapped[str | None] = mapped_column(Text)
    setup_url: Mapped[str | None] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    customer_reference: Mapped[str | None] = mapped_column(Text)
    brand: Mapped[str | None] = mapped_column(Text)
    last_four: Mapped[str | None] = mapped_column(Text)
    expiry_month: Mapped[int | None] = mapped_column(SmallInteger)
    expiry_year: Mapped[int | None] = mapped_column(SmallInteger)
    is_default: Mapped[bool] = mapped_column(server_default=FetchedValue())
    charges_from: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    next_check_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    checks: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    @property
    def saved_method(self) -> SavedMethod:
        """What its provider charges.

        raises: ValueError once the provider has forgotten it
        """
        if self.reference is None:
            raise ValueError("the method is forgotten")
        return SavedMethod(self.reference, self.customer_reference)


class Refund(Model):
    """Money of a payment that is paid back: of a credit note, or without one from the wallet.

    attempt: of asking the provider, from 1; each has an idempotency key of its own
    provider_reference: of the provider, or of the bank when it was paid back by hand
    """

    __tablename__ = "refunds"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    payment_id: Mapped[uuid.UUID]
    credit_note_id: Mapped[uuid.UUID | None]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    provider_reference: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    status: Mapped[RefundStatus] = mapped_column("state", EnumText(RefundStatus), server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class ProviderEvent(Model):
    """One signed event of a provider, as received; the table is the inbox."""

    __tablename__ = "provider_events"

    provider: Mapped[str] = mapped_column(Text, primary_key=True)
    event_id: Mapped[str] = mapped_column(Text, primary_key=True)
    event_type: Mapped[str] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    id: Mapped[uuid.UUID] = mapped_column(server_default=FetchedValue())
    status: Mapped[ProviderEventStatus] = mapped_column(EnumText(ProviderEventStatus), server_default=FetchedValue())
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    interruptions: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    next_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lease_token: Mapped[uuid.UUID | None]
    error_code: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class DunningRun(Model):
    """The dunning of one unpaid invoice."""

    __tablename__ = "dunning_runs"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    invoice_id: Mapped[uuid.UUID]
    policy: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status: Mapped[DunningRunStatus] = mapped_column("state", EnumText(DunningRunStatus), server_default=FetchedValue())
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class DunningStep(Model):
    """One dated step of a dunning run.

    day: days after the due date
    """

    __tablename__ = "dunning_steps"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    day: Mapped[int] = mapped_column(SmallInteger)
    run_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    action: Mapped[DunningAction] = mapped_column(EnumText(DunningAction))
    status: Mapped[DunningStepStatus] = mapped_column(
        "state", EnumText(DunningStepStatus), server_default=FetchedValue()
    )
    payment_id: Mapped[uuid.UUID | None]
    done_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
