"""Saved payment methods: set up on a page of a provider, the default one, removal, and the switch of auto-pay.

No data of a card passes through here: the provider keeps it, and tells what people know it by.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from limits import parse as parse_limit
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.billing import periods, wallet
from saas_api.billing.models import CHARGE_AUTOMATICALLY, SEND_INVOICE, BillingProfile
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.limits import limiter
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import checkout, provider_checks
from saas_api.payments.checkout import InvalidProvider, ProviderUnavailable
from saas_api.payments.models import Payment, PaymentMethod, PaymentMethodStatus, PaymentStatus
from saas_api.payments.payments import SettlementOutcome
from saas_api.providers import selection
from saas_api.providers.payments import (
    CheckoutSession,
    ProviderRejected,
    ProviderUnreachable,
    SavedMethod,
    SetupRequest,
)

log = get_logger(__name__)

MAX_METHODS = 10
SETUP_EXPIRES_AFTER = timedelta(days=1)
"""A method that is saved later, on a page that is still open, counts nevertheless."""
CHECK_BATCH_SIZE = 200
_SAVED_STATUSES = (PaymentMethodStatus.ACTIVE, PaymentMethodStatus.REMOVED)
_ASKED_ON_RETURN = parse_limit("1 per 10 seconds")


class TooManyPaymentMethods(Conflict):
    """The organization has MAX_METHODS payment methods, with those that are being set up."""

    code = "TOO_MANY_PAYMENT_METHODS"
    message = f"You can save at most {MAX_METHODS} payment methods. Remove one first."


def list_methods(session: Session, organization_id: UUID) -> Sequence[PaymentMethod]:
    """Active methods of an organization, the default one first."""
    return session.scalars(
        sa.select(PaymentMethod)
        .where(PaymentMethod.organization_id == organization_id, PaymentMethod.status == PaymentMethodStatus.ACTIVE)
        .order_by(PaymentMethod.is_default.desc(), PaymentMethod.created_at, PaymentMethod.id)
    ).all()


def is_auto_pay_on(session: Session, organization_id: UUID) -> bool:
    """Whether invoices of an organization are charged with its default method, if it has one."""
    profile = session.get(BillingProfile, organization_id)
    return profile is not None and profile.collection == CHARGE_AUTOMATICALLY


def begin_setup(principal: Principal, provider: str | None) -> PaymentMethod:
    """Create the page of a provider on which a method is saved, in transactions of its own.

    principal: a user, whose address the provider gets
    provider: None for the preferred one
    raises: InvalidProvider, TooManyPaymentMethods, ProviderUnavailable
    """
    organization_id = principal.organization_id
    with tenancy.tenant_session(organization_id) as session:
        wallet.lock_wallet(session, organization_id)  # two requests must not both save the last one
        offered = checkout.list_providers_of(_get_profile(session, organization_id).currency)
        if not offered or provider not in (None, *offered):
            raise InvalidProvider(details={"offered": offered})
        now = clock.now()
        if _count(session, organization_id) >= MAX_METHODS:
            raise TooManyPaymentMethods
        method = PaymentMethod(
            organization_id=organization_id,
            id=ids.new_id(),
            provider=provider or offered[0],
            next_check_at=provider_checks.next_check_at(0, now),
            created_at=now,
        )
        session.add(method)
        actor, target = audit.actor_for(principal), ("payment_method", method.id)
        audit.record_event(session, organization_id, actor, "payment_method.started", target, {})
        [user] = members.list_recipients(session, organization_id, (), user_ids=[principal.id])
        request = _setup_request(session, method, user.email)
    return _store_setup(method, _create_page(method, request))


def settle_setup(provider: str, reference: str) -> SettlementOutcome:
    """Ask a provider about a setup and apply its answer, in transactions of its own. Idempotent.

    raises: ProviderUnreachable; LookupError if the provider is no longer configured
    """
    with tenancy.system_session("payments.methods") as session:
        method = session.scalars(
            sa.select(PaymentMethod).where(
                PaymentMethod.provider == provider, PaymentMethod.setup_reference == reference
            )
        ).one_or_none()
    if method is None:
        return SettlementOutcome.UNKNOWN
    if method.status in _SAVED_STATUSES:
        return SettlementOutcome.SETTLED
    setup = selection.payment_provider(provider).get_setup(reference)
    if setup.kind == "open":
        return SettlementOutcome.OPEN
    with tenancy.system_session("payments.methods") as session:
        wallet.lock_wallet(session, method.organization_id)
        method = _lock(session, method.organization_id, method.id)
        if method.status in _SAVED_STATUSES:
            return SettlementOutcome.SETTLED
        if setup.method is None:
            method.status, method.next_check_at = PaymentMethodStatus.CANCELED, None
        else:
            _activate(session, method, setup.method)
    return SettlementOutcome.SETTLED


def refresh_setup(method_id: UUID) -> None:
    """Ask a provider about the pending setup of any organization, once in 10 seconds, because anybody may ask."""
    method = cells.search(lambda: _find(method_id))
    if method is None or method.status != PaymentMethodStatus.PENDING or method.setup_reference is None:
        return
    if not limiter.limiter.limiter.hit(_ASKED_ON_RETURN, str(method_id), "payment_setup_return"):
        return
    with cells.use(cells.cell_of(method.organization_id)):
        try:
            settle_setup(method.provider, method.setup_reference)
        except (ProviderUnreachable, LookupError):
            log.warning("payment_setup_not_asked", payment_method_id=str(method_id))


def make_default(session: Session, organization_id: UUID, method_id: UUID, actor: Actor) -> PaymentMethod:
    """Make a method the one that is charged automatically.

    raises: NotFound
    """
    wallet.lock_wallet(session, organization_id)
    method = _lock_active(session, organization_id, method_id)
    if not method.is_default:
        _set_default(session, method, clock.now())
        target = ("payment_method", method.id)
        audit.record_event(session, organization_id, actor, "payment_method.made_default", target, _describe(method))
    return method


def remove(session: Session, organization_id: UUID, method_id: UUID, actor: Actor) -> PaymentMethod:
    """Remove a method: it is charged no more, and its provider is told to forget it.

    raises: NotFound
    """
    wallet.lock_wallet(session, organization_id)
    method = _lock_active(session, organization_id, method_id)
    method.status, method.is_default = PaymentMethodStatus.REMOVED, False
    method.next_check_at, method.checks = clock.now(), 0
    target = ("payment_method", method.id)
    audit.record_event(session, organization_id, actor, "payment_method.removed", target, _describe(method))
    return method


def set_auto_pay(session: Session, organization_id: UUID, actor: Actor, *, is_on: bool) -> None:
    """Switch auto-pay. Invoices that became final while it was off stay for the customer to pay."""
    wallet.lock_wallet(session, organization_id)
    profile, collection = _get_profile(session, organization_id), CHARGE_AUTOMATICALLY if is_on else SEND_INVOICE
    if profile.collection == collection:
        return
    profile.collection = collection
    default = _default(session, organization_id)
    if is_on and default:
        default.charges_from = clock.now()
    action = "auto_pay.enabled" if is_on else "auto_pay.disabled"
    audit.record_event(session, organization_id, actor, action, ("organization", organization_id), {})


def follow_due(at: datetime) -> None:
    """Ask providers about pending setups that are due, and let them forget removed methods.

    Opens transactions of its own. An error of one method does not stop the others.
    """
    with tenancy.system_session("payments.methods") as session:
        due = session.scalars(
            sa.select(PaymentMethod)
            .where(PaymentMethod.next_check_at <= at)
            .order_by(PaymentMethod.next_check_at)
            .limit(CHECK_BATCH_SIZE)
        ).all()
    for method in due:
        try:
            is_done = _follow(method)
        except (ProviderUnreachable, LookupError):
            is_done = False
        except Exception:
            log.exception("payment_method_not_followed", payment_method_id=str(method.id))
            is_done = False
        if not is_done:
            _postpone(method, at)


def _follow(method: PaymentMethod) -> bool:
    """Returns whether nothing is left to do."""
    if method.status == PaymentMethodStatus.PENDING:
        reference = method.setup_reference
        return reference is not None and settle_setup(method.provider, reference) == SettlementOutcome.SETTLED
    if method.reference is not None and not _is_saved_again(method):
        selection.payment_provider(method.provider).forget_method(method.saved_method)
    with tenancy.system_session("payments.methods") as session:
        if _is_being_charged(session, method):  # the outcome is found out with its reference
            return False
        removed = _lock(session, method.organization_id, method.id)
        removed.reference = removed.customer_reference = removed.next_check_at = None
    return True


def _postpone(method: PaymentMethod, at: datetime) -> None:
    """Ask later; a setup that nobody has finished in time is canceled."""
    with tenancy.system_session("payments.methods") as session:
        method = _lock(session, method.organization_id, method.id)
        if method.next_check_at is None:  # an event was faster
            return
        method.checks += 1
        method.next_check_at = provider_checks.next_check_at(method.checks, at)
        is_pending = method.status == PaymentMethodStatus.PENDING
        if is_pending and at - method.created_at >= SETUP_EXPIRES_AFTER:
            method.status, method.next_check_at = PaymentMethodStatus.CANCELED, None


def _activate(session: SystemSession, method: PaymentMethod, saved: SavedMethod) -> None:
    """Store what the provider saved. The first method of an organization turns auto-pay on."""
    organization_id, now = method.organization_id, clock.now()
    method.status, method.next_check_at, method.setup_url = PaymentMethodStatus.ACTIVE, None, None
    method.reference, method.customer_reference = saved.reference, saved.customer_reference
    method.brand, method.last_four = saved.brand, saved.last_four
    method.expiry_month, method.expiry_year = saved.expiry_month, saved.expiry_year
    if _default(session, organization_id) is None:
        if not _had_methods(session, method):
            _get_profile(session, organization_id).collection = CHARGE_AUTOMATICALLY
        _set_default(session, method, now)
    target = ("payment_method", method.id)
    audit.record_event(session, organization_id, SYSTEM_ACTOR, "payment_method.saved", target, _describe(method))


def _set_default(session: Session, method: PaymentMethod, now: datetime) -> None:
    """Invoices that the default method before would have been charged for are charged to this one."""
    before = _default(session, method.organization_id)
    method.charges_from = before.charges_from if before else now
    if before:
        before.is_default = False
        session.flush()  # there is one default at any time
    method.is_default = True
    session.flush()


def _had_methods(session: Session, method: PaymentMethod) -> bool:
    return bool(
        session.scalar(
            sa.select(sa.func.count())
            .select_from(PaymentMethod)
            .where(PaymentMethod.organization_id == method.organization_id, PaymentMethod.id != method.id)
            .where(PaymentMethod.status.in_(_SAVED_STATUSES))
        )
    )


def _default(session: Session, organization_id: UUID) -> PaymentMethod | None:
    return session.scalars(
        sa.select(PaymentMethod).where(PaymentMethod.organization_id == organization_id, PaymentMethod.is_default)
    ).one_or_none()


def _count(session: Session, organization_id: UUID) -> int:
    open_statuses = (PaymentMethodStatus.ACTIVE, PaymentMethodStatus.PENDING)
    statement = sa.select(sa.func.count()).select_from(PaymentMethod)
    is_open = PaymentMethod.status.in_(open_statuses)
    return session.scalar(statement.where(PaymentMethod.organization_id == organization_id, is_open)) or 0


def _is_saved_again(method: PaymentMethod) -> bool:
    """Whether another method has the same reference, as the same card has at Paystack: it must stay chargeable."""
    statement = sa.select(PaymentMethod.id).where(
        PaymentMethod.organization_id == method.organization_id,
        PaymentMethod.provider == method.provider,
        PaymentMethod.reference == method.reference,
        PaymentMethod.status == PaymentMethodStatus.ACTIVE,
    )
    with tenancy.system_session("payments.methods") as session:
        return session.scalar(statement.limit(1)) is not None


def _is_being_charged(session: Session, method: PaymentMethod) -> bool:
    statement = sa.select(Payment.id).where(
        Payment.organization_id == method.organization_id,
        Payment.payment_method_id == method.id,
        Payment.status == PaymentStatus.CREATED,
    )
    return session.scalar(statement.limit(1)) is not None


def _find(method_id: UUID) -> PaymentMethod | None:
    with tenancy.system_session("payments.methods") as session:
        return session.scalars(sa.select(PaymentMethod).where(PaymentMethod.id == method_id)).one_or_none()


def _lock(session: Session, organization_id: UUID, method_id: UUID) -> PaymentMethod:
    key = (organization_id, method_id)
    return session.get_one(PaymentMethod, key, with_for_update=True, populate_existing=True)


def _lock_active(session: Session, organization_id: UUID, method_id: UUID) -> PaymentMethod:
    method = session.get(PaymentMethod, (organization_id, method_id), with_for_update=True, populate_existing=True)
    if method is None or method.status != PaymentMethodStatus.ACTIVE:
        raise NotFound
    return method


def _get_profile(session: Session, organization_id: UUID) -> BillingProfile:
    periods.ensure_account(session, organization_id)
    return session.get_one(BillingProfile, organization_id)


def _describe(method: PaymentMethod) -> dict[str, str | None]:
    return {"provider": method.provider, "brand": method.brand, "last_four": method.last_four}


def _setup_request(session: Session, method: PaymentMethod, email: str) -> SetupRequest:
    organization = organizations.get_organization(session, method.organization_id)
    return SetupRequest(
        method_id=method.id,
        currency=_get_profile(session, method.organization_id).currency,
        description=f"Payment method of {organization.name}"[: checkout.MAX_DESCRIPTION_LENGTH],
        email=email,
        return_url=f"{setting('APP_URL')}/payments/setups/{ids.format_id('pmd', method.id)}",
    )


def _create_page(method: PaymentMethod, request: SetupRequest) -> CheckoutSession:
    try:
        return selection.payment_provider(method.provider).create_setup(request)
    except (ProviderUnreachable, ProviderRejected, LookupError) as cause:
        log.warning("payment_setup_refused", payment_method_id=str(method.id), provider=method.provider)
        with tenancy.tenant_session(method.organization_id) as session:
            refused = _lock(session, method.organization_id, method.id)
            refused.status, refused.next_check_at = PaymentMethodStatus.CANCELED, None
        raise ProviderUnavailable from cause


def _store_setup(method: PaymentMethod, page: CheckoutSession) -> PaymentMethod:
    with tenancy.tenant_session(method.organization_id) as session:
        stored = _lock(session, method.organization_id, method.id)
        stored.setup_reference, stored.setup_url = page.reference, page.url
        return stored
