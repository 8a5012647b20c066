"""Due periods, drafts, organizations on hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.models import Organization
from saas_api.admin import context
from saas_api.admin.context import ReasonForm
from saas_api.billing import invoice_lifecycle, period_close, periods
from saas_api.billing.models import BillingProfile, Invoice
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.errors import NotFound
from saas_api.core.settings import setting
from saas_api.core.web import pages
from saas_api.core.web.forms import Form, form_view

bp = Blueprint("billing", __name__, url_prefix="/admin")

MAX_ROWS = 100
_DUE = sa.text("""
SELECT p.organization_id, o.name, count(*) AS periods, count(*) FILTER (WHERE p.state = 'closed') AS closed,
  min(p.ends_at) AS since, b.parked_at IS NOT NULL AS is_parked
FROM billing_periods p JOIN organizations o ON o.id = p.organization_id
LEFT JOIN billing_profiles b ON b.organization_id = p.organization_id
WHERE p.state = 'closed' OR p.state = 'open' AND p.ends_at <= :through
GROUP BY p.organization_id, o.name, b.parked_at ORDER BY min(p.ends_at) LIMIT :most
""")
_RUNS = sa.text("""
SELECT scheduled_for, state, started_at, finished_at, attempts, host, error FROM job_runs
WHERE job = :job ORDER BY scheduled_for DESC LIMIT :most
""")


@dataclass(frozen=True)
class DueOrganization:
    """Somebody whose ended periods are not invoiced.

    closed: of these periods, those that wait for nothing but their invoice
    since: when the first of them ended
    """

    organization_id: UUID
    name: str
    periods: int
    closed: int
    since: datetime
    is_parked: bool


def list_due(session: Session, at: datetime) -> list[DueOrganization]:
    """Organizations that the next close works off, the longest waiting first; at most a hundred."""
    through = at - timedelta(minutes=setting("BILLING_GRACE_MINUTES"))
    return [DueOrganization(*row) for row in session.execute(_DUE, {"through": through, "most": MAX_ROWS})]


def list_drafts(session: Session) -> Sequence[Any]:
    """Drafts that wait for somebody to look, the oldest first, with the name of their organization."""
    return session.execute(
        sa.select(Invoice, Organization.name)
        .join(Organization, Organization.id == Invoice.organization_id)
        .where(Invoice.status == "draft")
        .order_by(Invoice.created_at, Invoice.id)
        .limit(MAX_ROWS)
    ).all()


def list_on_hold(session: Session) -> Sequence[Any]:
    """Profiles whose organization's bills are held back, the longest first, with its name."""
    return session.execute(
        sa.select(BillingProfile, Organization.name)
        .join(Organization, Organization.id == BillingProfile.organization_id)
        .where(BillingProfile.parked_at.is_not(None))
        .order_by(BillingProfile.parked_at)
        .limit(MAX_ROWS)
    ).all()


def get_profile(session: Session, organization_id: UUID) -> Any:
    """A billing profile and the name of its organization.

    raises: NotFound
    """
    row = session.execute(
        sa.select(BillingProfile, Organization.name)
        .join(Organization, Organization.id == BillingProfile.organization_id)
        .where(BillingProfile.organization_id == organization_id)
    ).first()
    if row is None:
        raise NotFound
    return row


def get_names(session: Session, organization_ids: set[UUID]) -> dict[UUID, str]:
    """What organizations are called."""
    wanted = sa.select(Organization.id, Organization.name).where(Organization.id.in_(organization_ids))
    return {row.id: row.name for row in session.execute(wanted)} if organization_ids else {}


def list_runs(session: Session, job: str, most: int = 10) -> Sequence[Any]:
    """The last runs of a job of the timetable, the newest first."""
    return session.execute(_RUNS, {"job": job, "most": most}).all()


@bp.get("/billing")
@require_operator("support")
def index() -> Response:
    """Periods that are due, drafts, parked organizations and the last ticks."""
    now = clock.now()
    with context.read_session() as session:
        shown: dict[str, Any] = {
            "due": list_due(session, now),
            "drafts": list_drafts(session),
            "parked": list_on_hold(session),
            "runs": list_runs(session, "billing.close"),
        }
    return pages.render_page("admin/billing/index.html", now=now, **shown)


@bp.get("/billing/close", defaults={"organization_id": None})
@bp.get('/billing/close/<id("org"):organization_id>')
@require_operator("admin")
def close_form(organization_id: UUID | None, form: Form | None = None) -> Response:
    """What a close would write, before it is done."""
    drafts = period_close.preview_due(clock.now(), organization_id)
    owners = {draft.organization_id for draft in drafts} | ({organization_id} if organization_id else set())
    with context.read_session() as session:
        names = get_names(session, owners)
    shown: dict[str, Any] = {"drafts": drafts, "names": names, "organization_id": organization_id}
    return pages.render_page("admin/billing/close.html", form=form or Form(), **shown)


@bp.post("/billing/close", defaults={"organization_id": None})
@bp.post('/billing/close/<id("org"):organization_id>')
@require_operator("admin")
@form_view(ReasonForm(), form=close_form, is_idempotent=True, requires_fresh_login=True)
def close_periods(organization_id: UUID | None, body: dict[str, str]) -> Response:
    """Close and invoice what is due."""
    now = clock.now()
    with context.write_session() as session:
        target = ("organization", organization_id) if organization_id else ("platform", "billing")
        data = {"reason": body["reason"]}
        audit.record_event(
            session, organization_id, context.current_operator(g.principal), "billing.close_asked", target, data
        )
    periods.ensure_accounts(now, organization_id)
    outcome = period_close.close_due(now, organization_id)
    notice = f"Periods closed: {outcome.closed}. Invoices written: {len(outcome.invoices)}."
    failed = f" Organizations that failed: {len(outcome.failed)}; the log says why." if outcome.failed else ""
    return pages.redirect_to("admin.billing.index", _notice=notice + failed)


@bp.get('/billing/unpark/<id("org"):organization_id>')
@require_operator("admin")
def release_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Why an organization is parked, and how it is billed again."""
    with context.read_session() as session:
        profile, name, *_ = get_profile(session, organization_id)
    return pages.render_page("admin/billing/unpark.html", profile=profile, name=name, form=form or Form())


@bp.post('/billing/unpark/<id("org"):organization_id>')
@require_operator("admin")
@form_view(ReasonForm(), form=release_form, requires_fresh_login=True)
def release(organization_id: UUID, body: dict[str, str]) -> Response:
    """Let an organization's invoices be finalized again."""
    with context.write_session() as session:
        is_done = invoice_lifecycle.release_billing(session, organization_id, context.operator_context(body))
    notice = "It is billed again. Its drafts wait for you to finalize them." if is_done else "It was not parked."
    return pages.redirect_to("admin.billing.index", _notice=notice)
