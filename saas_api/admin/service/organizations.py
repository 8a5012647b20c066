"""What operators do to an organization: its standing, its plan and limits, its money, and looking at it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.admin.service.operators import acting, operator
from saas_api.auth import service as auth
from saas_api.billing import service as billing
from saas_api.billing.models import BillingPeriod, Subscription
from saas_api.billing.queries.inputs import find_running
from saas_api.billing.rules import periods
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.ids import new_id, wire_id
from saas_api.core.money import minor_to_text
from saas_api.core.tenancy import transaction
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.users import service as users
from saas_api.webhooks import service as webhooks

JUST_BEGUN_SECONDS = 3600


@dataclass(frozen=True)
class BillNow:
    """What ending the running period at this moment would charge; nothing is written.

    drafts: the invoices that would be written, an ended period's too
    running: the running period and its bill up to now
    next_ends_at: when the period that begins now would end
    """

    drafts: list[billing.Summary]
    running: billing.Preview
    next_ends_at: datetime

    @property
    def total_minor(self) -> int:
        """Sum of the invoices."""
        return sum(draft.total_minor for draft in self.drafts)

    @property
    def is_just_begun(self) -> bool:
        """Whether the running period is so young that somebody may have billed a moment ago."""
        return (clock.now() - self.running.starts_at).total_seconds() < JUST_BEGUN_SECONDS


def suspend(principal: Principal, organization_id: UUID, reason: str) -> None:
    """Refuse an organization's keys from the next request on.

    raises: as `organizations.suspend`
    """
    with acting() as session:
        organizations.suspend(session, organization_id, operator(principal), reason)
        _publish(session, organization_id, "organization.suspended", "suspended", "operator")


def resume(principal: Principal, organization_id: UUID, reason: str) -> None:
    """Take an operator's suspension back.

    raises: as `organizations.resume`
    """
    with acting() as session:
        organizations.resume(session, organization_id, operator(principal), reason)
        _publish(session, organization_id, "organization.resumed", "active", None)


def change_plan(
    principal: Principal, organization_id: UUID, plan: str, when: str | None, reason: str
) -> billing.Change:
    """Put an organization on another plan, one that is not on offer too.

    raises: as `billing.change_plan`
    """
    told = organizations.check_reason(reason)
    with acting() as session:
        return billing.change_plan(session, organization_id, plan, when, operator(principal), reason=told)


def look_at_change(organization_id: UUID, plan: str, when: str | None) -> billing.Change:
    """What `change_plan` would do at this moment.

    raises: as `billing.change_plan`
    """
    with transaction(organization_id) as session:
        return billing.look_at_change(session, organization_id, plan, when, is_customer=False)


def simulate(organization_id: UUID, plan: str, count: int) -> billing.Simulation:
    """What an organization's real usage would have cost on the newest version of a plan.

    count: periods before the running one; 0 for the running one
    raises: as `billing.simulate`
    """
    with transaction(organization_id) as session:
        return billing.simulate(session, organization_id, [plan], count)[0]


def retire_plan(principal: Principal, plan: str, reason: str, *, is_undone: bool) -> bool:
    """Offer a plan no longer, or again; whoever is on it stays.

    returns: whether anything changed
    raises: as `billing.retire`
    """
    return billing.retire(plan, operator(principal), organizations.check_reason(reason), is_undone=is_undone)


def set_limits(principal: Principal, organization_id: UUID, exceptions: billing.Exceptions, reason: str) -> None:
    """Make exceptions to an organization's plan, or take them back.

    raises: as `billing.set_exceptions`
    """
    with acting() as session:
        billing.set_exceptions(session, organization_id, exceptions, operator(principal), reason)


def grant(
    principal: Principal, organization_id: UUID, amount_minor: int, reason: str, expires_at: datetime | None
) -> UUID:
    """Put money into an organization's wallet, which its next invoices use up.

    raises: as `billing.grant`
    """
    act = billing.Act(operator(principal), organizations.check_reason(reason))
    source = billing.Source(f"operator:{new_id()}", "promotional")
    with acting() as session:
        return billing.grant(session, organization_id, source, amount_minor, act, expires_at=expires_at)


def look_at_bill(organization_id: UUID) -> BillNow:
    """What `bill_now` would charge at this moment.

    raises: NoSuchOrganization
    """
    with transaction(organization_id) as session:
        preview = billing.preview(session, organization_id)
        running = find_running(session, organization_id, clock.now())
        ends_at = _next_end(session, organization_id, running)
    return BillNow(billing.drafts_now(organization_id), preview, ends_at)


def bill_now(principal: Principal, organization_id: UUID, reason: str) -> billing.Outcome:
    """End an organization's running period at this moment and invoice it without grace; the act is kept first.

    raises: NoSuchOrganization
    """
    told = organizations.check_reason(reason)
    drafts = billing.drafts_now(organization_id)
    totals = [f"{minor_to_text(draft.total_minor, draft.currency)} {draft.currency}" for draft in drafts]
    with acting() as session:
        target = ("organization", organization_id)
        data = {"reason": told, "invoices": totals}
        audit.record(session, organization_id, operator(principal), "billing.billed_now", target, data)
    return billing.close_now(organization_id)


def look(principal: Principal, organization_id: UUID, reason: str) -> str:
    """A token with which an operator sees an organization for an hour, as viewer.

    raises: as `auth.look_at`
    """
    with acting() as session:
        user = users.find(session, principal.id)
    if user is None:
        raise auth.NotAnOperator
    return auth.look_at(organization_id, user.email, reason)[0]


def stop_looking(token: str) -> UUID | None:
    """End the session a token of `look` belongs to.

    returns: the organization; None when it had ended
    """
    try:
        principal = auth.principal_of(token)
    except (auth.InvalidToken, auth.TokenExpired):
        return None
    if not principal.is_looking:
        return None
    with acting() as session:
        target = ("organization", principal.organization_id)
        actor = operator(principal)
        audit.record(session, principal.organization_id, actor, "organization.look_ended", target)
    auth.sign_out(principal)
    return principal.organization_id


def _next_end(session: Session, organization_id: UUID, running: BillingPeriod | None) -> datetime:
    zone = clock.zone(organizations.get(session, organization_id).timezone)
    anchor_day = select(Subscription.anchor_day).where(Subscription.organization_id == organization_id)
    at = max(clock.now(), running.starts_at) if running else clock.now()
    return periods.next_end(at, session.scalars(anchor_day).one(), zone, periods.AT_SIGN_UP)


def _publish(session: Session, organization_id: UUID, kind: str, status: str, reason: str | None) -> None:
    organization = organizations.get(session, organization_id)
    session.refresh(organization, ["generation"])
    data = {"object": "organization", "id": wire_id("org", organization_id), "status": status, "reason": reason}
    webhooks.publish(session, organization_id, kind, webhooks.Subject(organization_id, organization.generation), data)
