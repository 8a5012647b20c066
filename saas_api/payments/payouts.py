"""Payouts: money of the wallet that goes back to the payer, by hand or through the provider it came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import wallet
from saas_api.core import ids, money
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed
from saas_api.core.jobs import queue
from saas_api.payments import payments
from saas_api.payments.models import Payment, Refund


class PayoutExceedsWallet(Conflict):
    """The wallet holds less money that can be paid out this way; `details.left` says how much."""

    code, message = "PAYOUT_EXCEEDS_WALLET", "The wallet holds less money that can be paid out this way."


class PayoutExists(Conflict):
    """Money was paid out under this reference before."""

    code, message = "PAYOUT_EXISTS", "Money was paid out under this reference before."


@dataclass(frozen=True)
class Payout:
    """Wallet money that was paid back.

    reference: of the bank; None when the providers of the payments pay it back
    refunds: at these providers
    """

    amount_minor: int
    currency: str
    reference: str | None
    refunds: Sequence[Refund]


def pay_out(
    session: SystemSession,
    organization_id: UUID,
    money_out: tuple[int, str],
    operator: OperatorContext,
    reference: str | None = None,
) -> Payout:
    """Take money out of the wallet that goes back to the payer. Promotional credit never does.

    money_out: minor units above zero, and their currency
    reference: of the bank, for money that was paid back by hand. Without it the providers refund what was paid on
        their pages above an amount due, with the next reconciliation.
    raises: ValidationFailed, PayoutExceedsWallet, PayoutExists
    """
    amount_minor, currency = money_out
    if amount_minor <= 0:
        raise ValidationFailed.at_field("amount", "Must be above zero.")
    wallet.lock_wallet(session, organization_id)
    if reference and wallet.is_paid_out(session, organization_id, reference):
        raise PayoutExists
    payment_ids = _overpaid(session, organization_id)
    grants = wallet.lock_money(session, organization_id, currency)
    usable = [grant for grant in grants if reference or grant.source_key in payment_ids]
    available_minor = sum(grant.remaining_minor for grant in usable)
    if available_minor < amount_minor:
        left_text = money.format_minor(available_minor, currency)
        raise PayoutExceedsWallet(f"{left_text} {currency} can be paid out this way.", details={"left": left_text})
    refunds, left = [], amount_minor
    for grant in usable:
        part = min(grant.remaining_minor, left)
        if not part:
            break
        left -= part
        entry_reference = reference
        if not entry_reference:
            refunds.append(_add_refund(session, organization_id, payment_ids[grant.source_key], part))
            entry_reference = ids.format_id("rfd", refunds[-1].id)
        wallet.take_payout(session, grant, part, entry_reference)
    data = {"amount": money.format_minor(amount_minor, currency), "currency": currency, "reference": reference}
    operator.record(session, organization_id, "wallet.paid_out", ("organization", organization_id), data)
    return Payout(amount_minor, currency, reference, refunds)


def _overpaid(session: SystemSession, organization_id: UUID) -> dict[str, UUID]:
    """Payments at providers of which a part went into the wallet, by the source key of its grant."""
    statement = select(Payment.id).where(
        Payment.organization_id == organization_id, Payment.provider != payments.OFFLINE, Payment.excess_minor > 0
    )
    return {f"payment:{payment_id}": payment_id for payment_id in session.scalars(statement)}


def _add_refund(session: SystemSession, organization_id: UUID, payment_id: UUID, amount_minor: int) -> Refund:
    refund = Refund(organization_id=organization_id, id=ids.new_id(), payment_id=payment_id, amount_minor=amount_minor)
    session.add(refund)
    queue.enqueue(session, payments.RECONCILIATION_JOB)
    return refund
