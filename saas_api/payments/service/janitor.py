"""The janitor: payments of unknown outcome are asked about, ever less often, and given up after a week."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.observe import get_logger
from saas_api.core.tenancy import as_system
from saas_api.payments import queries
from saas_api.payments.models import Payment
from saas_api.payments.rules import checking
from saas_api.payments.service import initiating, settlement
from saas_api.providers import payments as providers

log = get_logger(__name__)

ASKED_AT_ONCE = 200


@dataclass
class Rounds:
    """What a round has done: payments it asked about, and those it could not finish."""

    asked: int = 0
    failed: list[UUID] = field(default_factory=list)


def look_after(at: datetime) -> Rounds:
    """Ask about every payment that is due to be asked about; a trouble with one does not hold up another."""
    rounds = Rounds()
    with as_system("payments.janitor") as session:
        payments = queries.to_check(session, at, ASKED_AT_ONCE)
    for payment in payments:
        rounds.asked += 1
        try:
            _look_at(payment)
        except Exception:
            log.exception("payment_not_looked_after", payment_id=str(payment.id))
            rounds.failed.append(payment.id)
            _postpone(payment)
    return rounds


def _look_at(payment: Payment) -> None:
    if payment.checkout_url is None:
        try:
            initiating.open_page(payment.organization_id, payment.id)
        except initiating.ProviderUnavailable:
            _wait(payment, "provider_unavailable")
        else:
            _postpone(payment)
        return
    try:
        outcome = settlement.settle(payment.provider, payment.provider_reference or "")
    except (providers.ProviderAway, LookupError):
        _wait(payment, "provider_unavailable")
        return
    if outcome == settlement.OPEN:
        _wait(payment, "expired")


def _wait(payment: Payment, code: str) -> None:
    if clock.now() - payment.created_at >= checking.GIVEN_UP_AFTER:
        settlement.give_up(payment.organization_id, payment.id, code)
    else:
        _postpone(payment)


def _postpone(payment: Payment) -> None:
    with as_system("payments.janitor") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.state.in_(checking.IN_FLIGHT))
            .values(checks=payment.checks + 1, next_check_at=checking.next_check(payment.checks + 1, clock.now()))
        )
