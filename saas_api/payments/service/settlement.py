"""Settling: the provider is asked, its answer compared with what was asked for, and money booked once.

The payment's row is locked first, then the invoice's, as whoever pursues or corrects it does after that.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock, observe
from saas_api.core.errors import NotFound
from saas_api.core.ids import new_id
from saas_api.core.money import minor_to_text
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit
from saas_api.payments import queries
from saas_api.payments.models import Payment
from saas_api.payments.rules import checking
from saas_api.payments.service import dunning
from saas_api.payments.service.telling import alert, name_of, tell, write
from saas_api.providers import payments as providers

log = observe.get_logger(__name__)

_PAYABLE = ("open", "uncollectible")
DONE, OPEN, QUARANTINED, UNKNOWN = "done", "open", "quarantined", "unknown"


@dataclass(frozen=True)
class Offline:
    """Money that came another way.

    reference: of the bank; booked once
    """

    amount_minor: int
    currency: str
    reference: str


def settle(provider: str, reference: str) -> str:
    """Let a payment be what its provider says now.

    returns: DONE, OPEN (nothing decided), QUARANTINED, or UNKNOWN for a reference that is nobody's
    raises: ProviderAway; LookupError when the provider is not offered any more
    """
    with as_system("payments.settle") as session:
        payment = queries.by_reference(session, provider, reference)
    if payment is None:
        return UNKNOWN
    truth = providers.named(provider).ask(reference)
    observe.fault("payments.after_ask")
    with as_system("payments.settle") as session:
        payment = _lock(session, payment.organization_id, payment.id)
        return _apply(session, payment, truth)


def look(payment_id: UUID) -> Payment | None:
    """A payment whose customer comes back from the provider: asked about, if nothing is decided yet."""
    payment = _find(payment_id)
    if payment is None or payment.state not in checking.IN_FLIGHT or not payment.provider_reference:
        return payment
    try:
        settle(payment.provider, payment.provider_reference)
    except (providers.ProviderAway, LookupError):
        log.warning("payment_not_asked", payment_id=str(payment_id))
    return _find(payment_id)


def give_up(organization_id: UUID, payment_id: UUID, code: str) -> None:
    """Cancel a payment that was never decided; late truth still books it."""
    with as_system("payments.settle") as session:
        payment = _lock(session, organization_id, payment_id)
        if payment.state in checking.IN_FLIGHT:
            _close(session, payment, "canceled", code)


def book_offline(organization_id: UUID, invoice_id: UUID, money: Offline, actor: audit.Actor, reason: str) -> Payment:
    """Book money that did not come through a provider.

    raises: NotFound; IntegrityError for a reference that was booked before
    """
    with as_system("payments.settle") as session:
        invoice = billing.lock_invoice(session, organization_id, invoice_id)
        if invoice.currency != money.currency or invoice.state == "draft":
            raise NotFound
        payment_id, now = new_id(), clock.now()
        settled = billing.settle_invoice(
            session, organization_id, invoice_id, money.amount_minor, f"payment:{payment_id}"
        )
        payment = Payment(
            organization_id=organization_id,
            id=payment_id,
            invoice_id=invoice_id,
            provider="offline",
            provider_reference=money.reference,
            initiated_by="operator",
            currency=money.currency,
            amount_minor=money.amount_minor,
            captured_minor=money.amount_minor,
            allocated_minor=settled.allocated_minor,
            excess_minor=settled.excess_minor,
            refunded_minor=0,
            state="succeeded",
            created_at=now,
            settled_at=now,
        )
        session.add(payment)
        data = {"reason": reason, "reference": money.reference}
        audit.record(session, organization_id, actor, "payment.recorded", ("payment", payment_id), data)
        _after_success(session, payment)
        return payment


def _find(payment_id: UUID) -> Payment | None:
    with as_system("payments.settle") as session:
        return queries.by_id(session, payment_id)


def _lock(session: Session, organization_id: UUID, payment_id: UUID) -> Payment:
    return session.get_one(Payment, (organization_id, payment_id), with_for_update=True, populate_existing=True)


def _apply(session: Session, payment: Payment, truth: providers.Truth) -> str:
    if payment.state == "succeeded":
        return DONE
    told = checking.Terms(truth.reference, truth.currency, truth.amount_minor)
    asked = checking.Terms(payment.provider_reference, payment.currency, payment.amount_minor)
    problem = checking.mismatch(truth.kind, told, asked)
    if problem:
        _quarantine(session, payment, problem, told)
        return QUARANTINED
    kind = checking.decided(truth.kind, clock.now() - payment.created_at)
    if kind == "open":
        return OPEN
    if kind == "succeeded":
        _book(session, payment, truth.amount_minor)
    elif payment.state in checking.IN_FLIGHT:
        _close(session, payment, kind, truth.failure_code or "expired")
    return DONE


def _book(session: Session, payment: Payment, captured_minor: int) -> None:
    source = f"payment:{payment.id}"
    settled = billing.settle_invoice(session, payment.organization_id, payment.invoice_id, captured_minor, source)
    payment.captured_minor = captured_minor
    payment.allocated_minor, payment.excess_minor = settled.allocated_minor, settled.excess_minor
    payment.state, payment.settled_at = "succeeded", clock.now()
    payment.failure_code = payment.next_check_at = None
    data = {"minor": captured_minor, "excess_minor": settled.excess_minor}
    actor, target = audit.SYSTEM, ("payment", payment.id)
    audit.record(session, payment.organization_id, actor, "payment.succeeded", target, data)
    _after_success(session, payment)
    observe.fault("payments.before_commit")


def _after_success(session: Session, payment: Payment) -> None:
    tell(session, payment, "payment.succeeded")
    invoice = billing.lock_invoice(session, payment.organization_id, payment.invoice_id)
    write(session, "payment_received", payment, invoice)
    dunning.after_payment(session, payment.organization_id, payment.invoice_id)


def _close(session: Session, payment: Payment, state: str, code: str) -> None:
    payment.state, payment.failure_code, payment.next_check_at = state, code, None
    actor, target = audit.SYSTEM, ("payment", payment.id)
    audit.record(session, payment.organization_id, actor, f"payment.{state}", target, {"failure_code": code})
    tell(session, payment, "payment.failed")
    if state == "failed":
        invoice = billing.lock_invoice(session, payment.organization_id, payment.invoice_id)
        if invoice.state in _PAYABLE:
            billing.tell(session, invoice, "invoice.payment_failed", attempt=1)
        write(session, "payment_failed", payment, invoice)


def _quarantine(session: Session, payment: Payment, problem: str, told: checking.Terms) -> None:
    if payment.state == "quarantined" and payment.failure_code == problem:
        return
    payment.state, payment.failure_code, payment.next_check_at = "quarantined", problem, None
    data = {"problem": problem, "told_minor": told.amount_minor, "told_currency": told.currency}
    actor, target = audit.SYSTEM, ("payment", payment.id)
    audit.record(session, payment.organization_id, actor, "payment.quarantined", target, data)
    asked = f"{minor_to_text(payment.amount_minor, payment.currency)} {payment.currency} were asked for"
    detail = (
        f"{name_of(payment.organization_id, payment.id)}: {problem}; {asked}, {payment.provider} says "
        f"{told.amount_minor} {told.currency} in minor units. Nothing was booked."
    )
    alert(session, "a payment is quarantined", detail)
