"""What actions do to an organization: suspend, plan, limits, credit, bill now, impersonate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import g, request
from marshmallow import fields, validate
from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, impersonation, organizations, sessions
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.accounts.tokens import InvalidToken, TokenAudience, TokenExpired
from saas_api.admin import context
from saas_api.admin.context import Preview, ReasonForm
from saas_api.billing import (
    current_period,
    pauses,
    period_close,
    periods,
    plans,
    previews,
    service_terms,
    settlement,
    subscriptions,
    wallet,
)
from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingPeriod, BillingProfile, CreditGrant, GrantKind, Subscription
from saas_api.billing.period_close import CloseResult
from saas_api.billing.plans import SelectablePlan
from saas_api.billing.rating import period_grid
from saas_api.billing.rating.bill import Bill
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD
from saas_api.billing.service_terms import LimitOverrides
from saas_api.billing.subscriptions import PlanChange
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, formatting, ids, money, time_zones
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ApiError, NotFound, ValidationFailed
from saas_api.core.fields import DateField, MoneyAmount, QueryInteger, StrictSchema, Text
from saas_api.core.money import CURRENCY_EXPONENTS
from saas_api.core.web import forms, templating
from saas_api.core.web.forms import Form
from saas_api.payments import payouts
from saas_api.payments.payouts import Payout
from saas_api.usage import meters
from saas_api.webhooks import organization_events

RECENT_PERIOD_SECONDS = 3600
_WHEN = ("now", "period_end")


class ConfirmByNameForm(ReasonForm):
    """Form of an action that also asks for the name of the organization."""

    name = Text(maximum=200, required=True)


class BillNowForm(ConfirmByNameForm):
    """As of CloseForm."""

    is_dry = fields.Boolean(load_default=False)


class PlanChangeQuery(StrictSchema):
    """The plan change that the page previews."""

    plan = Text(maximum=60, load_default=None)
    when = fields.String(load_default=None, validate=validate.OneOf(_WHEN))


class OperatorChangePlanForm(ReasonForm):
    """The new plan and when the change takes effect."""

    plan = Text(maximum=60, required=True)
    when = fields.String(load_default=None, validate=validate.OneOf(_WHEN))


class CurrencyForm(ReasonForm):
    """The new currency of an organization."""

    currency = fields.String(required=True, validate=validate.OneOf(list(CURRENCY_EXPONENTS)))


class ExternalIdForm(ReasonForm):
    """The name by which services know an organization; empty removes it."""

    external_id = Text(minimum=0, maximum=organizations.MAX_EXTERNAL_ID_LENGTH, required=True, allow_none=True)


class LimitOverridesForm(ReasonForm):
    """Limits instead of the plan's. The fields `quota_<meter>` are read from the request: meters are data."""

    rate_limit = QueryInteger(minimum=1, maximum=1_000_000, load_default=None)
    expires_on = DateField(load_default=None)


class GrantCreditForm(ReasonForm):
    """A credit grant; it expires at the end of `expires_on`, in the organization's time zone.

    The same key grants credit only once.
    """

    amount = MoneyAmount(required=True)
    kind = fields.String(
        load_default=GrantKind.PROMOTIONAL,
        validate=validate.OneOf([GrantKind.PROMOTIONAL, GrantKind.PURCHASED]),
        metadata={"help": "Kind of credit; invoices use promotional credit first."},
    )
    expires_on = DateField(
        load_default=None,
        metadata={"metavar": "DAY", "help": "Last day in its time zone; unused credit is lost afterwards."},
    )
    key = Text(load_default=None, metadata={"help": "Idempotency key: the same key grants credit only once."})


class PayoutForm(ReasonForm):
    """An amount of the wallet that goes back, and the bank reference if it was paid back by hand."""

    amount = MoneyAmount(required=True)
    reference = Text(
        maximum=100,
        load_default=None,
        metadata={"help": "Bank reference of a transfer you already made; without it, the provider refunds."},
    )


@dataclass(frozen=True)
class WalletPreview:
    """A wallet that an operator changes.

    revocable: grants of operators with a remainder
    """

    currency: str
    revocable: Sequence[CreditGrant]


@dataclass(frozen=True)
class PlanChoice:
    """The plans that can be chosen, the choice of the operator, and what it would change."""

    plans: Mapping[str, SelectablePlan]
    chosen: Form
    change: PlanChange | None


@dataclass(frozen=True)
class BillNowPreview:
    """What ending the running period at this moment would charge.

    drafts: the invoices that would be written, those of ended periods too
    running: the running period
    final: the bill of the running period if it ended now
    next_ends_at: when the period that begins now would end
    """

    drafts: list[InvoiceWithPeriod]
    running: CurrentPeriod
    final: Bill
    next_ends_at: datetime

    @property
    def total_minor(self) -> int:
        return sum(draft.invoice.total_minor for draft in self.drafts)

    @property
    def is_recent_period(self) -> bool:
        """Whether the running period began within the last hour, perhaps because another operator billed it."""
        return (clock.now() - self.running.account.period.starts_at).total_seconds() < RECENT_PERIOD_SECONDS


def preview_plan_change(organization: Organization, form: Form | None) -> Preview:
    """Previews the plan in the query, or the one of a refused form."""
    _, chosen = forms.parse_filters(PlanChangeQuery())
    if form is not None:
        chosen = Form({name: form.value(name) for name in ("plan", "when")})
    with context.read_session() as session:
        selectable = plans.list_selectable_plans(session, currency=_currency(session, organization.id))
    change = _plan_change(organization.id, chosen)
    status = 422 if chosen.errors else 200
    return Preview(PlanChoice(selectable, chosen, change), status=status, is_ready=change is not None)


def _plan_change(organization_id: UUID, chosen: Form) -> PlanChange | None:
    plan = chosen.value("plan")
    if not plan or chosen.errors:
        return None
    try:
        with tenancy.tenant_session(organization_id) as session:
            return subscriptions.preview_change(
                session, organization_id, plan, chosen.value("when") or None, is_member=False
            )
    except NotFound:
        raise
    except ApiError as error:
        chosen.errors["plan"] = error.message
        return None


def preview_limits(organization: Organization, _form: Form | None) -> Preview:
    """The meters by code, and the overrides of the organization as values of the form."""
    with context.read_session() as session:
        overrides, by_code = service_terms.get_overrides(session, organization.id), meters.all_meters(session)
    last_day = _last_full_day_before(overrides.expires_at).isoformat() if overrides.expires_at else None
    quotas = {f"quota_{meter}": f"{limit.normalize():f}" for meter, limit in overrides.quotas.items()}
    return Preview(by_code, {"rate_limit": overrides.rate_limit, "expires_on": last_day, **quotas})


def preview_credit(organization: Organization, _form: Form | None) -> Preview:
    """The currency of the wallet, and the grants that can be revoked."""
    with context.read_session() as session:
        currency = _currency(session, organization.id)
        return Preview(WalletPreview(currency, wallet.list_revocable(session, organization.id)))


def preview_bill_now(organization: Organization, _form: Form | None) -> Preview:
    """Previews the invoices that `bill_now` would write at this moment."""
    with tenancy.tenant_session(organization.id) as session:
        running = current_period.read_current_period(session, organization.id)
        final = previews.preview_final_bill(session, running)
        period = periods.find_current_period(session, organization.id, clock.now())
        ends_at = _next_end(session, organization.id, period)
    drafts = period_close.preview_now(organization.id, is_repeat_ignored=True)
    return Preview(BillNowPreview(drafts, running, final, ends_at))


def suspend(operator: OperatorContext, organization_id: UUID) -> None:
    """Rejects the organization's keys from the next request on; no base amount is charged for the time.

    raises: as `organizations.suspend`
    """
    with context.write_session() as session:
        organizations.suspend(session, organization_id, operator.actor, operator.reason)
        pauses.start_pause(session, organization_id)
        organization_events.publish(session, organization_id, "organization.suspended", "operator")


def resume(operator: OperatorContext, organization_id: UUID) -> None:
    """Ends an operator's suspension.

    raises: as `organizations.resume`
    """
    with context.write_session() as session:
        organizations.resume(session, organization_id, operator.actor, operator.reason)
        pauses.end_pause(session, organization_id)
        organization_events.publish(session, organization_id, "organization.resumed", None)


def change_plan(operator: OperatorContext, organization_id: UUID, plan: str, when: str | None) -> PlanChange:
    """Moves the organization to another plan; the plan may be archived or not public.

    raises: as `subscriptions.change_plan`
    """
    with context.write_session() as session:
        return subscriptions.change_plan(
            session, organization_id, plan, when, operator.actor, reason=organizations.validate_reason(operator.reason)
        )


def set_currency(operator: OperatorContext, organization_id: UUID, currency: str) -> PlanChange:
    """Changes the organization's currency, which puts it on the default plan.

    raises: as `subscriptions.set_currency`
    """
    reason = organizations.validate_reason(operator.reason)
    with context.write_session() as session:
        return subscriptions.set_currency(session, organization_id, currency, operator.actor, reason=reason)


def set_external_id(operator: OperatorContext, organization_id: UUID, external_id: str | None) -> Organization:
    """Sets the name by which services know the organization; empty removes it.

    raises: as `organizations.set_external_id`
    """
    reason, name = organizations.validate_reason(operator.reason), (external_id or "").strip()
    return organizations.set_external_id(organization_id, name or None, operator.actor, reason)


def set_limit_overrides(
    operator: OperatorContext, organization_id: UUID, rate_limit: int | None, expires_on: date | None
) -> LimitOverrides:
    """Replaces the organization's limit overrides; empty ones restore the limits of its plan.

    raises: as `service_terms.set_overrides`
    """
    with context.write_session() as session:
        overrides = LimitOverrides(rate_limit, _submitted_quotas(session), _end_of_day(expires_on))
        service_terms.set_overrides(session, organization_id, overrides, operator.actor, operator.reason)
    return overrides


def grant_credit(operator: OperatorContext, organization_id: UUID, amount: Decimal, **values: Any) -> CreditGrant:
    """Adds credit to the organization's wallet.

    values: as of GrantCreditForm
    raises: as `settlement.grant_credit`
    """
    source = GrantSource(f"operator:{values['key'] or ids.new_id()}", GrantKind(values["kind"]))
    with context.write_session() as session:
        minor, _ = _to_minor(session, organization_id, amount)
        zone = time_zones.get_zone(organizations.get_organization(session, organization_id).timezone)
        expires_at = _end_of_day(values["expires_on"], zone)
        grant_id = settlement.grant_credit(session, organization_id, source, minor, operator, expires_at=expires_at)
        return session.get_one(CreditGrant, (organization_id, grant_id))


def pay_out(operator: OperatorContext, organization_id: UUID, amount: Decimal, reference: str | None) -> Payout:
    """Pays money of the organization's wallet back.

    reference: as of PayoutForm
    raises: as `payouts.pay_out`; ValidationFailed for an amount finer than the currency
    """
    with context.write_session() as session:
        minor = _to_minor(session, organization_id, amount)
        return payouts.pay_out(session, organization_id, minor, operator, reference)


def bill_now(operator: OperatorContext, organization_id: UUID, *, is_dry: bool) -> CloseResult:
    """Ends the running period at this moment and invoices it without grace; the audit event is committed first.

    A repeat within an hour ends no other period, unless that has usage.

    is_dry: as of CloseForm
    raises: OrganizationNotFound
    """
    drafts = period_close.preview_now(organization_id, is_repeat_ignored=True)
    if is_dry:
        return CloseResult(invoices=drafts, is_dry=True)
    totals = [formatting.format_money(draft.invoice.total_minor, draft.currency) for draft in drafts]
    with context.write_session() as session:
        target, data = ("organization", organization_id), {"reason": operator.reason, "invoices": totals}
        audit.record_event(session, organization_id, operator.actor, "billing.billed_now", target, data)
    return period_close.close_now(organization_id, is_repeat_ignored=True)


def describe_close(result: CloseResult) -> str:
    """The notice after `bill_now`."""
    invoices = [
        f"{item.invoice.number or 'a draft'}, {formatting.format_money(item.invoice.total_minor, item.currency)}"
        for item in result.invoices
    ]
    return f"{templating.pluralize(result.closed, 'period')} closed. Invoices created: {'; '.join(invoices) or 'none'}."


def start_impersonation(operator: OperatorContext, organization_id: UUID) -> tuple[str, datetime]:
    """Gives the operator's browser a token that shows the organization as a viewer sees it.

    It ends after an hour, or when the operator signs out.
    returns: the token and its expiry
    raises: as `impersonation.start_impersonation`
    """
    own_session_id = g.principal.session_id if "principal" in g else None
    token, expires_at = impersonation.start_impersonation(organization_id, operator, own_session_id)
    g.impersonation_token = token
    return token, expires_at


def stop_impersonation(token: str) -> UUID | None:
    """Ends the session of an impersonation token.

    returns: the organization; None when the session had ended
    """
    try:
        principal = sessions.authenticate_token(token, TokenAudience.PAGES)
    except (InvalidToken, TokenExpired):
        return None
    if not principal.is_impersonating:
        return None
    with context.write_session() as session:
        target = ("organization", principal.organization_id)
        actor = context.current_operator(principal)
        audit.record_event(session, principal.organization_id, actor, "organization.look_ended", target)
    sessions.end_session(principal)
    return principal.organization_id


def _currency(session: SystemSession, organization_id: UUID) -> str:
    profile = session.get(BillingProfile, organization_id)
    return profile.currency if profile else money.DEFAULT_CURRENCY


def _to_minor(session: SystemSession, organization_id: UUID, amount: Decimal) -> tuple[int, str]:
    """An amount in minor units of the organization's currency, and the currency; locks the wallet, and so both."""
    wallet.lock_wallet(session, organization_id)
    currency = _currency(session, organization_id)
    try:
        return money.parse_minor(f"{amount:f}", currency), currency
    except ValueError as cause:
        raise ValidationFailed.at_field("amount", f"Too many decimal places for {currency}.") from cause


def _end_of_day(day: date | None, zone: tzinfo = UTC) -> datetime | None:
    """The instant at which a day ends in a time zone."""
    return datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC) if day else None


def _last_full_day_before(instant: datetime) -> date:
    return (instant.astimezone(UTC) - timedelta(microseconds=1)).date()


def _submitted_quotas(session: SystemSession) -> dict[str, Decimal]:
    quotas, errors = {}, []
    for meter in meters.all_meters(session):
        text = request.form.get(f"quota_{meter}", "").strip()
        try:
            if text:
                quotas[meter] = Decimal(QueryInteger().deserialize(text))
        except ma.ValidationError:
            errors.append((f"quota_{meter}", "Enter a whole number up to 999,999,999."))
    if errors:
        raise ValidationFailed.from_fields(errors)
    return quotas


def _next_end(session: Session, organization_id: UUID, running: BillingPeriod | None) -> datetime:
    zone = time_zones.get_zone(organizations.get_organization(session, organization_id).timezone)
    anchor_day = select(Subscription.anchor_day).where(Subscription.organization_id == organization_id)
    start = max(clock.now(), running.starts_at) if running else clock.now()
    return period_grid.next_period_end(start, session.scalars(anchor_day).one(), zone, MIN_FIRST_PERIOD)
