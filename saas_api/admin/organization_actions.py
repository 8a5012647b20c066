"""What actions do to an organization: suspend, plan, limits, credit, bill now, impersonate."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, impersonation, organizations, sessions, users
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.impersonation import OperatorRoleRequired
from saas_api.accounts.tokens import InvalidToken, TokenExpired
from saas_api.admin import context
from saas_api.billing import period_close, periods, previews, subscriptions, terms, wallet
from saas_api.billing.invoice_lifecycle import InvoiceSummary
from saas_api.billing.models import BillingPeriod, Subscription
from saas_api.billing.period_close import CloseResult
from saas_api.billing.previews import BillPreview
from saas_api.billing.rating import period_grid
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD
from saas_api.billing.subscriptions import PlanChange
from saas_api.billing.terms import LimitOverrides
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject

RECENT_PERIOD_SECONDS = 3600


@dataclass(frozen=True)
class BillNowPreview:
    """What ending the running period at this moment would charge; nothing is written.

    drafts: the invoices that would be written, an ended period's too
    running: the running period and its bill up to now
    next_ends_at: when the period that begins now would end
    """

    drafts: list[InvoiceSummary]
    running: BillPreview
    next_ends_at: datetime

    @property
    def total_minor(self) -> int:
        """Sum of the invoices."""
        return sum(draft.total_minor for draft in self.drafts)

    @property
    def is_recent_period(self) -> bool:
        """Whether the running period is so young that somebody may have billed a moment ago."""
        return (clock.now() - self.running.starts_at).total_seconds() < RECENT_PERIOD_SECONDS


def suspend(principal: Principal, organization_id: UUID, reason: str) -> None:
    """Refuse an organization's keys from the next request on.

    raises: as `organizations.suspend`
    """
    with context.write_session() as session:
        organizations.suspend(session, organization_id, context.current_operator(principal), reason)
        _publish(session, organization_id, "organization.suspended", "suspended", "operator")


def resume(principal: Principal, organization_id: UUID, reason: str) -> None:
    """Take an operator's suspension back.

    raises: as `organizations.resume`
    """
    with context.write_session() as session:
        organizations.resume(session, organization_id, context.current_operator(principal), reason)
        _publish(session, organization_id, "organization.resumed", "active", None)


def change_plan(principal: Principal, organization_id: UUID, plan: str, when: str | None, reason: str) -> PlanChange:
    """Put an organization on another plan, one that is not on offer too.

    raises: as `billing.change_plan`
    """
    told = organizations.validate_reason(reason)
    with context.write_session() as session:
        return subscriptions.change_plan(
            session, organization_id, plan, when, context.current_operator(principal), reason=told
        )


def preview_plan_change(organization_id: UUID, plan: str, when: str | None) -> PlanChange:
    """What `change_plan` would do at this moment.

    raises: as `billing.change_plan`
    """
    with tenancy.tenant_session(organization_id) as session:
        return subscriptions.preview_change(session, organization_id, plan, when, is_customer=False)


def set_limit_overrides(principal: Principal, organization_id: UUID, exceptions: LimitOverrides, reason: str) -> None:
    """Make exceptions to an organization's plan, or take them back.

    raises: as `billing.set_exceptions`
    """
    with context.write_session() as session:
        terms.set_overrides(session, organization_id, exceptions, context.current_operator(principal), reason)


def grant_credit(
    principal: Principal, organization_id: UUID, amount_minor: int, reason: str, expires_at: datetime | None
) -> UUID:
    """Put money into an organization's wallet, which its next invoices use up.

    raises: as `billing.grant`
    """
    act = OperatorContext(context.current_operator(principal), organizations.validate_reason(reason))
    source = GrantSource(f"operator:{ids.new_id()}", "promotional")
    with context.write_session() as session:
        return wallet.grant_credit(session, organization_id, source, amount_minor, act, expires_at=expires_at)


def preview_bill_now(organization_id: UUID) -> BillNowPreview:
    """What `bill_now` would charge at this moment.

    raises: NoSuchOrganization
    """
    with tenancy.tenant_session(organization_id) as session:
        preview = previews.preview_current_period(session, organization_id)
        running = periods.find_current_period(session, organization_id, clock.now())
        ends_at = _next_end(session, organization_id, running)
    return BillNowPreview(period_close.preview_now(organization_id), preview, ends_at)


def bill_now(principal: Principal, organization_id: UUID, reason: str) -> CloseResult:
    """End an organization's running period at this moment and invoice it without grace; the act is kept first.

    raises: NoSuchOrganization
    """
    told = organizations.validate_reason(reason)
    drafts = period_close.preview_now(organization_id)
    totals = [f"{money.format_minor(draft.total_minor, draft.currency)} {draft.currency}" for draft in drafts]
    with context.write_session() as session:
        target = ("organization", organization_id)
        data = {"reason": told, "invoices": totals}
        audit.record_event(
            session, organization_id, context.current_operator(principal), "billing.billed_now", target, data
        )
    return period_close.close_now(organization_id)


def start_impersonation(principal: Principal, organization_id: UUID, reason: str) -> str:
    """A token with which an operator sees an organization for an hour, as viewer.

    raises: as `auth.look_at`
    """
    with context.write_session() as session:
        user = users.find_user(session, principal.id)
    if user is None:
        raise OperatorRoleRequired
    return impersonation.start_impersonation(organization_id, user.email, reason)[0]


def stop_impersonation(token: str) -> UUID | None:
    """End the session a token of `look` belongs to.

    returns: the organization; None when it had ended
    """
    try:
        principal = sessions.authenticate_token(token)
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


def _next_end(session: Session, organization_id: UUID, running: BillingPeriod | None) -> datetime:
    zone = clock.get_zone(organizations.get(session, organization_id).timezone)
    anchor_day = select(Subscription.anchor_day).where(Subscription.organization_id == organization_id)
    at = max(clock.now(), running.starts_at) if running else clock.now()
    return period_grid.next_period_end(at, session.scalars(anchor_day).one(), zone, MIN_FIRST_PERIOD)


def _publish(session: Session, organization_id: UUID, kind: str, status: str, reason: str | None) -> None:
    organization = organizations.get(session, organization_id)
    session.refresh(organization, ["generation"])
    data = {"object": "organization", "id": ids.format_id("org", organization_id), "status": status, "reason": reason}
    events.publish(session, organization_id, kind, EventSubject(organization_id, organization.generation), data)
