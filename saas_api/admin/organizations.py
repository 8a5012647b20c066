"""Organizations: search and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts import members, schemas
from saas_api.accounts.members import TeamView
from saas_api.accounts.models import AuditEvent, Membership, Organization, OrganizationLimits, OrganizationStatus, User
from saas_api.admin import audit, context, lists, revenue
from saas_api.admin.lists import Columns, ListQuery
from saas_api.api_keys import key_format
from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.billing import plans
from saas_api.billing.models import (
    PAYABLE_STATUSES,
    BillingPause,
    BillingProfile,
    BillingStanding,
    Invoice,
    PlanVersion,
    Subscription,
    SubscriptionSegment,
)
from saas_api.core import clock, formatting, ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.fields import Text
from saas_api.core.web import charts, forms, pages
from saas_api.core.web.charts import Chart, ChartPoint
from saas_api.usage import live_quantities

bp = Blueprint("organizations", __name__)

MAX_AUDIT_ROWS, MAX_INVOICES, MAX_KEYS, MAX_NAMES = 10, 6, 50, 200
_ACCOUNT = sa.text("""
SELECT s.standing, b.currency, b.spend_cap_minor, b.spend_cap_action, b.parked_at AS on_hold_at,
  b.parked_reason AS hold_reason,
  now_on.plan_version_id AS plan_version, later.plan_version_id AS scheduled, later.starts_at AS scheduled_at,
  p.id AS period_id, p.starts_at, p.ends_at, e.value AS rate_limit,
  (SELECT coalesce(sum(due_minor), 0)::bigint FROM invoices i
    WHERE i.organization_id = s.organization_id AND i.state IN ('open', 'uncollectible')) AS unpaid_minor,
  (SELECT coalesce(sum(remaining_minor), 0)::bigint FROM credit_grants c
    WHERE c.organization_id = s.organization_id AND c.currency = b.currency AND c.effective_at <= :at
      AND (c.expires_at IS NULL OR c.expires_at > :at)) AS wallet_minor
FROM subscriptions s
LEFT JOIN billing_profiles b ON b.organization_id = s.organization_id
LEFT JOIN LATERAL (SELECT plan_version_id FROM subscription_segments g WHERE g.organization_id = s.organization_id
  AND g.starts_at <= greatest(:at, s.started_at) ORDER BY seq DESC LIMIT 1) now_on ON true
LEFT JOIN LATERAL (SELECT plan_version_id, starts_at FROM subscription_segments g
  WHERE g.organization_id = s.organization_id AND g.starts_at > greatest(:at, s.started_at)
  ORDER BY seq LIMIT 1) later ON true
LEFT JOIN entitlements e ON e.plan_version_id = now_on.plan_version_id AND e.feature = 'rate_limit_per_minute'
LEFT JOIN LATERAL (SELECT id, starts_at, ends_at FROM billing_periods p WHERE p.organization_id = s.organization_id
  AND state = 'open' AND ends_at > :at ORDER BY seq LIMIT 1) p ON true
WHERE s.organization_id = :id""")
_KEYS = sa.text("""
SELECT k.id, k.name, k.mode, k.scopes, k.last_used_at, k.revoked_at, k.created_at, s.hint, s.last_four
FROM api_keys k LEFT JOIN LATERAL (SELECT hint, last_four FROM api_key_secrets s
  WHERE s.organization_id = k.organization_id AND s.key_id = k.id ORDER BY created_at DESC LIMIT 1) s ON true
WHERE k.organization_id = :id ORDER BY k.revoked_at IS NOT NULL, k.created_at DESC LIMIT :most""")
_ENDPOINTS = sa.text("""
SELECT id, url, status, consecutive_failures, first_failure_at, last_success_at FROM webhook_endpoints
WHERE organization_id = :id AND deleted_at IS NULL ORDER BY created_at""")


RECENT_PERIOD = timedelta(days=30)
_FIGURES = sa.text("""
SELECT o.id,
  (SELECT count(*) FROM memberships m WHERE m.organization_id = o.id) AS members,
  (SELECT coalesce(sum(r.event_count), 0)::bigint FROM usage_rollups r
    WHERE r.organization_id = o.id AND r.bucket_at >= :since) AS requests
FROM organizations o WHERE o.id = ANY (:ids)""")
_USAGE_BY_DAY = sa.text("""
SELECT r.meter_code, m.name, (r.bucket_at AT TIME ZONE 'UTC')::date AS day, sum(r.event_count)::bigint AS requests
FROM usage_rollups r JOIN meters m ON m.code = r.meter_code
WHERE r.organization_id = :id AND r.bucket_at >= :since GROUP BY 1, 2, 3""")
_KEY = sa.text("""
SELECT k.*, o.name AS organization_name, u.email AS creator, (SELECT array_agg(s.hint || '…' || s.last_four
    ORDER BY s.created_at DESC) FROM api_key_secrets s WHERE s.organization_id = k.organization_id AND s.key_id = k.id
    AND s.revoked_at IS NULL) AS secrets
FROM api_keys k JOIN organizations o ON o.id = k.organization_id LEFT JOIN users u ON u.id = k.created_by
WHERE k.id = :id""")
_LAST_SEEN = (
    sa.select(sa.func.max(ApiKey.last_used_at)).where(ApiKey.organization_id == Organization.id).scalar_subquery()
)
_UNPAID = (
    sa.select(sa.func.coalesce(sa.func.sum(Invoice.due_minor), 0))
    .where(Invoice.organization_id == Organization.id, Invoice.status.in_(PAYABLE_STATUSES))
    .scalar_subquery()
)
_IS_PAUSED = sa.exists().where(BillingPause.organization_id == Organization.id, BillingPause.ends_at.is_(None))
_MRR = sa.case(
    (sa.or_(Organization.status == OrganizationStatus.CLOSED, _IS_PAUSED), 0),
    else_=sa.func.coalesce(PlanVersion.base_amount_minor, 0),
)
_ROW_COLUMNS = (
    *("id", "name", "status", "standing", "plan_version_id", "created_at", "mrr_minor", "last_seen_at"),
    *("unpaid_minor", "currency"),
)
_NEVER = sa.literal(datetime(1970, 1, 1, tzinfo=UTC))
SORTS: Mapping[str, Sequence[str]] = {
    "created": ("created_at", "id"),
    "mrr": ("currency", "mrr_minor", "id"),
    "unpaid": ("currency", "unpaid_minor", "id"),
    "last-seen": ("seen_at", "id"),
    "name": ("name", "id"),
}
"""Columns that the list is sorted by, the highest first but for names; amounts of each currency are apart."""


ORGANIZATION_COLUMNS: Columns = {
    "id": lambda row: ids.format_id("org", row.id),
    "name": lambda row: row.name,
    "status": lambda row: row.status,
    "standing": lambda row: row.standing,
    "plan": lambda row: row.plan_version,
    "members": lambda row: row.members,
    "requests_30d": lambda row: row.requests,
    "mrr": lambda row: lists.csv_money(row.mrr_minor, row.currency) if row.currency else "",
    "last_seen_at": lambda row: lists.csv_time(row.last_seen_at),
    "unpaid": lambda row: lists.csv_money(row.unpaid_minor, row.currency) if row.currency else "",
    "currency": lambda row: row.currency,
    "created_at": lambda row: lists.csv_time(row.created_at),
}


class OrganizationListQuery(ListQuery):
    """Filters of organizations.

    q: a part of the name or of an email address, an id, or the beginning of an API key
    """

    q = Text(maximum=200, load_default=None)
    status = fields.String(load_default=None, validate=validate.OneOf(list(OrganizationStatus)))
    standing = fields.String(load_default=None, validate=validate.OneOf(list(BillingStanding)))
    plan = Text(maximum=60, load_default=None)
    sort = fields.String(load_default="created", validate=validate.OneOf(list(SORTS)))


@dataclass(frozen=True)
class OrganizationDetail:
    """An organization with everything that its page shows.

    account: row of its plan, running period, wallet and unpaid amount; None before its account is opened
    usage: quantity by meter in the running period
    actors: names of the actors in the audit events, by id
    """

    organization: Organization
    account: Any
    team: TeamView
    limits: OrganizationLimits | None
    usage: Mapping[str, Decimal]
    keys: Sequence[Any]
    endpoints: Sequence[Any]
    invoices: Sequence[Invoice]
    audit_events: Sequence[AuditEvent]
    actors: Mapping[str, str]


@dataclass(frozen=True)
class OrganizationRow:
    """An organization in the list.

    standing, plan_version: None before its account is opened
    currency: "" before its account is opened
    requests: accepted requests of the last 30 days, as far as rollups reach
    mrr_minor: monthly fee of its plan; 0 while it is suspended, and once it is closed
    last_seen_at: last use of one of its API keys
    unpaid_minor: amount due of finalized invoices
    """

    id: UUID
    name: str
    status: str
    standing: str | None
    plan_version: str | None
    created_at: datetime
    mrr_minor: int
    last_seen_at: datetime | None
    unpaid_minor: int
    currency: str
    members: int
    requests: int

    @property
    def state(self) -> str:
        """The status that an operator set, or else the standing that follows from unpaid invoices."""
        if self.status != OrganizationStatus.ACTIVE or self.standing in (None, BillingStanding.GOOD):
            return self.status
        return str(self.standing)


def get_organization(session: SystemSession, organization_id: UUID) -> Organization:
    """An organization.

    raises: NotFound
    """
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise NotFound
    return organization


def get_organization_detail(session: SystemSession, organization_id: UUID, at: datetime) -> OrganizationDetail:
    """An organization at an instant.

    raises: NotFound
    """
    statement = sa.select(Organization, OrganizationLimits).outerjoin(
        OrganizationLimits, OrganizationLimits.organization_id == Organization.id
    )
    row = session.execute(statement.where(Organization.id == organization_id)).first()
    if row is None:
        raise NotFound
    organization, limits = row
    values = {"id": organization_id, "at": at, "most": MAX_KEYS}
    account = session.execute(_ACCOUNT, values).first()
    invoices = sa.select(Invoice).where(Invoice.organization_id == organization_id)
    audit_events = sa.select(AuditEvent).where(AuditEvent.organization_id == organization_id)
    recent_events = session.scalars(audit_events.order_by(AuditEvent.id.desc()).limit(MAX_AUDIT_ROWS)).all()
    has_period = account is not None and account.period_id is not None
    return OrganizationDetail(
        organization,
        account,
        members.get_team(session, organization_id),
        limits,
        live_quantities.get_totals(session, organization_id, account.period_id) if account and has_period else {},
        session.execute(_KEYS, values).all(),
        session.execute(_ENDPOINTS, values).all(),
        session.scalars(invoices.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(MAX_INVOICES)).all(),
        recent_events,
        audit.get_names(session, recent_events),
    )


def get_key(session: SystemSession, key_id: UUID) -> Any:
    """Row of an API key of any organization, with the name of that, its creator and the hints of its secrets.

    raises: NotFound
    """
    row = session.execute(_KEY, {"id": key_id}).first()
    if row is None:
        raise NotFound
    return row


def search_organizations(session: SystemSession, query: dict[str, Any], at: datetime) -> Page:
    """A page of OrganizationRow, by default the newest first.

    query: as of OrganizationListQuery
    raises: ValidationFailed
    """
    rows = _organizations(query, at).subquery()
    names = SORTS[query["sort"]]
    keys = [rows.c[name] if query["sort"] == "name" else rows.c[name].desc() for name in names]
    shown = [column for column in rows.c if column.name in _ROW_COLUMNS]
    page = lists.paginate_or_export(session, sa.select(*shown), *keys, query=query)
    return replace(page, items=_add_figures(session, page.items, at))


def count_organizations(session: SystemSession, query: Mapping[str, Any], at: datetime) -> dict[str, int]:
    """Number of organizations by status with the other filters, as of `lists.count_each`."""
    rows = _organizations({**query, "status": None}, at).subquery()
    return lists.count_each(
        session, sa.select(rows.c.id), {status: rows.c.status == status for status in OrganizationStatus}
    )


def _organizations(query: Mapping[str, Any], at: datetime) -> sa.Select[*tuple[Any, ...]]:
    is_in_force = sa.and_(
        SubscriptionSegment.organization_id == Organization.id,
        SubscriptionSegment.starts_at <= at,
        SubscriptionSegment.ends_at.is_(None) | (SubscriptionSegment.ends_at > at),
    )
    return (
        sa.select(
            Organization.id,
            Organization.name,
            Organization.status,
            Subscription.standing,
            SubscriptionSegment.plan_version_id,
            Organization.created_at,
            sa.cast(_MRR, sa.BigInteger).label("mrr_minor"),
            _LAST_SEEN.label("last_seen_at"),
            sa.cast(_UNPAID, sa.BigInteger).label("unpaid_minor"),
            sa.func.coalesce(BillingProfile.currency, "").label("currency"),
            sa.func.coalesce(_LAST_SEEN, _NEVER).label("seen_at"),
        )
        .outerjoin(BillingProfile, BillingProfile.organization_id == Organization.id)
        .outerjoin(Subscription, Subscription.organization_id == Organization.id)
        .outerjoin(SubscriptionSegment, is_in_force)
        .outerjoin(PlanVersion, PlanVersion.id == SubscriptionSegment.plan_version_id)
        .where(*_conditions(query))
    )


def _conditions(query: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query["q"]:
        conditions.append(is_match(query["q"].strip()))
    if query["status"]:
        conditions.append(Organization.status == query["status"])
    if query["standing"]:
        conditions.append(Subscription.standing == query["standing"])
    if query["plan"]:
        conditions.append(SubscriptionSegment.plan_version_id.startswith(f"{query['plan']}@", autoescape=True))
    return conditions


def list_matches(session: SystemSession, text: str, most: int) -> Sequence[Organization]:
    """Organizations that match a text as of `is_match`, by name."""
    statement = sa.select(Organization).where(is_match(text)).order_by(Organization.name, Organization.id)
    return session.scalars(statement.limit(most)).all()


def list_names(session: SystemSession) -> Sequence[str]:
    """Names to choose from, at most MAX_NAMES; others are found by typing them."""
    names = sa.select(Organization.name).where(Organization.status != OrganizationStatus.CLOSED).distinct()
    return session.scalars(names.order_by(Organization.name).limit(MAX_NAMES)).all()


def find_one(session: SystemSession, text: str) -> Organization:
    """The organization with an ID or a name, or the only one that matches.

    raises: ValidationFailed for none and for several
    """
    matches = list_matches(session, text, 3)
    named = [organization for organization in matches if organization.name == text]
    [*chosen] = named if len(named) == 1 else matches
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = ", ".join(organization.name for organization in chosen)
        raise ValidationFailed.at_field("organization", f"Several organizations match, such as {names}. Use the ID.")
    raise ValidationFailed.at_field("organization", "No organization has this name or ID.")


def is_match(text: str) -> sa.ColumnElement[bool]:
    """Whether an organization has an ID, a part of a name or of an email address, or the beginning of an API key."""
    try:
        return Organization.id == ids.parse_id("org", text)
    except ValueError:
        pass
    if key_format.has_key_prefix(text):
        hint = key_format.key_hint(text)
        secrets = sa.select(ApiKeySecret.organization_id).where(ApiKeySecret.hint.startswith(hint, autoescape=True))
        return Organization.id.in_(secrets)
    if "@" in text:
        members = (
            sa.select(Membership.organization_id)
            .join(User, User.id == Membership.user_id)
            .where(User.email.contains(text.lower(), autoescape=True))
        )
        is_billed = Organization.billing_email.contains(text.lower(), autoescape=True)
        return sa.or_(Organization.id.in_(members), is_billed)
    return sa.or_(
        Organization.name.icontains(text, autoescape=True),
        Organization.slug.startswith(text.lower(), autoescape=True),
    )


def _add_figures(session: SystemSession, rows: Sequence[Any], at: datetime) -> list[OrganizationRow]:
    values = {"ids": [row.id for row in rows], "since": at - RECENT_PERIOD}
    figures = {row.id: row[1:] for row in session.execute(_FIGURES, values)}
    return [OrganizationRow(*row, *figures[row.id]) for row in rows]


@bp.get("/admin/organizations")
@require_operator("support")
def index() -> Response:
    """Search organizations, newest first."""
    query, form = forms.parse_filters(OrganizationListQuery())
    with context.read_session() as session:
        selectable = plans.list_selectable_plans(session)
        page = None if form.errors else search_organizations(session, query, clock.now())
        counts = {} if form.errors else count_organizations(session, query, clock.now())
    if page and query["format"] == "csv":
        return lists.csv_export("organizations", ORGANIZATION_COLUMNS, page)
    return pages.render_page(
        "admin/organizations/index.html",
        status=200 if page else 422,
        form=form,
        page=page,
        counts=counts,
        plans=[("", "Any"), *((code, plan.version.name) for code, plan in selectable.items())],
        **pages.pagination_links(page.next_cursor if page else None),
    )


@bp.get('/admin/organizations/<id("org"):organization_id>')
@require_operator("support")
def show(organization_id: UUID) -> Response:
    """Show an organization."""
    now = clock.now()
    with context.read_session() as session:
        detail = get_organization_detail(session, organization_id, now)
        net_revenue = revenue.read_figure(session, "net-revenue", now, organization_id=organization_id)
        usage = _usage_chart(session, organization_id, now)
    account = detail.account
    rate = plans.resolve_rate_limit(account.rate_limit) if account and account.rate_limit is not None else None
    currencies = sorted({row.currency for row in net_revenue})
    return pages.render_page(
        "admin/organizations/show.html",
        detail=detail,
        rate=rate,
        now=now,
        public_id=schemas.audit_public_id,
        usage=usage,
        revenue=[
            revenue.net_revenue_chart([row for row in net_revenue if row.currency == currency], currency)
            for currency in currencies
        ],
    )


@bp.get('/admin/keys/<id("key"):key_id>')
@require_operator("support")
def show_key(key_id: UUID) -> Response:
    """Show an API key without its secrets."""
    with context.read_session() as session:
        key = get_key(session, key_id)
    return pages.render_page("admin/organizations/key.html", key=key)


def _usage_chart(session: SystemSession, organization_id: UUID, at: datetime) -> Chart:
    days = [(at - RECENT_PERIOD).date() + timedelta(days=number) for number in range(1, RECENT_PERIOD.days + 1)]
    since = datetime.combine(days[0], time(), UTC)
    counts: dict[str, dict[date, int]] = {}
    meter_names: dict[str, str] = {}
    for meter, name, day, requests in session.execute(_USAGE_BY_DAY, {"id": organization_id, "since": since}):
        counts.setdefault(meter, {})[day] = requests
        meter_names[meter] = name
    columns = {meter: [by_day.get(day, 0) for day in days] for meter, by_day in counts.items()}
    names, values = charts.meter_series(columns, meter_names, len(days))
    points: list[ChartPoint] = list(zip(map(formatting.format_day, days), *values, strict=True))
    return charts.bar_chart("usage", "Accepted requests per day (UTC)", points, series=names)
