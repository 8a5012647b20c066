"""Billing of every organization: due periods, drafts, organizations on hold, and the close."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context
from saas_api.admin.context import Preview, ReasonForm
from saas_api.billing import period_close, periods
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingProfile, Invoice, InvoiceStatus
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.fields import Timestamp
from saas_api.core.settings import setting
from saas_api.core.web import pages
from saas_api.core.web.forms import Form

bp = Blueprint("billing", __name__, url_prefix="/admin")

MAX_ROWS, MAX_RUNS = 100, 10
_LIST_DUE = sa.text("""
SELECT p.organization_id, o.name, count(*) AS periods, count(*) FILTER (WHERE p.state = 'closed') AS closed,
  min(p.ends_at) AS ended_at, b.parked_at IS NOT NULL AS is_on_hold
FROM billing_periods p JOIN organizations o ON o.id = p.organization_id
LEFT JOIN billing_profiles b ON b.organization_id = p.organization_id
WHERE p.state = 'closed' OR p.state = 'open' AND p.ends_at <= :through
GROUP BY p.organization_id, o.name, b.parked_at ORDER BY min(p.ends_at), p.organization_id LIMIT :most
""")
_LIST_RUNS = sa.text("""
SELECT scheduled_for, state, started_at, finished_at, attempts, host, error FROM job_runs
WHERE job = :job ORDER BY scheduled_for DESC LIMIT :most
""")


@dataclass(frozen=True)
class DueOrganization:
    """An organization with periods that have ended and are not invoiced.

    closed: number of these periods that are closed and lack only their invoice
    ended_at: end of the oldest of them
    """

    organization_id: UUID
    name: str
    periods: int
    closed: int
    ended_at: datetime
    is_on_hold: bool


@dataclass(frozen=True)
class OrganizationBilling:
    """An organization with its billing profile.

    profile: None before the organization's first billing period
    """

    organization_id: UUID
    organization_name: str
    profile: BillingProfile | None


class CloseForm(ReasonForm):
    """What a command of the close takes; its pages send the reason alone."""

    at = Timestamp(
        load_default=None,
        metadata={"metavar": "TIME", "help": "Use TIME instead of the current time (not in production)."},
    )
    is_dry = fields.Boolean(
        load_default=False, metadata={"option": "--dry-run", "help": "Show the drafts without saving anything."}
    )


@dataclass(frozen=True)
class ClosePreview:
    """The invoices that a close would write, and the names of their organizations."""

    drafts: Sequence[InvoiceWithPeriod]
    names: Mapping[UUID, str]


def list_due(session: SystemSession, at: datetime) -> list[DueOrganization]:
    """Organizations that the next close invoices, longest due first; at most MAX_ROWS."""
    through = at - timedelta(minutes=setting("BILLING_GRACE_MINUTES"))
    return [DueOrganization(*row) for row in session.execute(_LIST_DUE, {"through": through, "most": MAX_ROWS})]


def list_drafts(session: SystemSession) -> Sequence[Any]:
    """Rows of (draft `Invoice`, name of its organization), oldest first; at most MAX_ROWS."""
    return session.execute(
        sa.select(Invoice, Organization.name)
        .join(Organization, Organization.id == Invoice.organization_id)
        .where(Invoice.status == InvoiceStatus.DRAFT)
        .order_by(Invoice.created_at, Invoice.id)
        .limit(MAX_ROWS)
    ).all()


def list_on_hold(session: SystemSession) -> Sequence[Any]:
    """Rows of (`BillingProfile` on hold, name of its organization), longest on hold first; at most MAX_ROWS."""
    return session.execute(
        sa.select(BillingProfile, Organization.name)
        .join(Organization, Organization.id == BillingProfile.organization_id)
        .where(BillingProfile.on_hold_at.is_not(None))
        .order_by(BillingProfile.on_hold_at)
        .limit(MAX_ROWS)
    ).all()


def get_account(session: SystemSession, organization_id: UUID) -> OrganizationBilling:
    """An organization and whether its billing is on hold.

    raises: NotFound
    """
    row = session.execute(
        sa.select(Organization, BillingProfile)
        .outerjoin(BillingProfile, BillingProfile.organization_id == Organization.id)
        .where(Organization.id == organization_id)
    ).first()
    if row is None:
        raise NotFound
    organization, profile = row
    return OrganizationBilling(organization.id, organization.name, profile)


def get_names(session: SystemSession, organization_ids: set[UUID]) -> dict[UUID, str]:
    """Names of organizations by id."""
    statement = sa.select(Organization.id, Organization.name).where(Organization.id.in_(organization_ids))
    return {row.id: row.name for row in session.execute(statement)}


def list_runs(session: SystemSession, job: str) -> Sequence[Any]:
    """Runs of a scheduled job, newest first; at most MAX_RUNS."""
    return session.execute(_LIST_RUNS, {"job": job, "most": MAX_RUNS}).all()


@bp.get("/billing")
@require_operator("support")
def index() -> Response:
    """Show due periods, drafts, organizations on hold and the last runs of the close."""
    with context.read_session() as session:
        return pages.render_page(
            "admin/billing/index.html",
            due=list_due(session, clock.now()),
            drafts=list_drafts(session),
            on_hold=list_on_hold(session),
            runs=list_runs(session, "billing.close"),
        )


def preview_release(account: OrganizationBilling, _form: Form | None) -> Preview:
    """Nothing to preview.

    raises: NotFound when the organization has no billing profile to release
    """
    if account.profile is None:
        raise NotFound
    return Preview()


def preview_close(account: OrganizationBilling | None, _form: Form | None) -> Preview:
    """Previews what `close_periods` would write at this moment, for one organization or for all."""
    drafts = period_close.preview_due(clock.now(), account.organization_id if account else None)
    with context.read_session() as session:
        names = get_names(session, {draft.invoice.organization_id for draft in drafts})
    return Preview(ClosePreview(drafts, names))


def close_periods(
    operator: OperatorContext, organization_id: UUID | None, at: datetime | None, *, is_dry: bool
) -> CloseResult:
    """Closes and invoices the periods that are due; the audit event is committed first.

    organization_id: None for every organization
    at, is_dry: as of CloseForm
    raises: ValidationFailed for `at` in production, or far from the current time
    """
    if at and setting("APP_ENV") == "production":
        raise ValidationFailed.at_field("at", "Not available in production. Leave it out.")
    try:
        clock.check_assumed_now(at or clock.now())
    except ValueError as error:
        raise ValidationFailed.at_field("at", str(error)) from error
    at = at or clock.now()
    if is_dry:
        return CloseResult(invoices=period_close.preview_due(at, organization_id), is_dry=True)
    with context.write_session() as session:
        target = ("organization", organization_id) if organization_id else ("platform", "billing")
        data = {"reason": operator.reason}
        audit.record_event(session, organization_id, operator.actor, "billing.close_asked", target, data)
    periods.ensure_accounts(at, organization_id)
    return period_close.close_due(at, organization_id)


def describe_close(result: CloseResult) -> str:
    """The notice after `close_periods`."""
    notice = f"Periods closed: {result.closed}. Invoices created: {len(result.invoices)}."
    failed = f" Organizations that failed: {len(result.failed)}. See the log for details." if result.failed else ""
    return notice + failed
