"""Everything about one organization, as an operator sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice
from saas_api.core.errors import NotFound
from saas_api.organizations.models import AuditEvent, Organization, OrganizationLimits
from saas_api.organizations.queries import Team, team
from saas_api.usage.queries.live import live_quantities

LAST_ACTS, LAST_INVOICES, MOST_KEYS = 10, 6, 50
_ACCOUNT = sa.text("""
SELECT s.standing, b.currency, b.spend_cap_minor, b.spend_cap_action, b.parked_at, b.parked_reason,
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


@dataclass(frozen=True)
class Detail:
    """One organization.

    account: of its plan, period and money, the wallet too; None before it is opened
    used: in the running period, by meter, in its unit
    """

    organization: Organization
    account: Any
    team: Team
    limits: OrganizationLimits | None
    used: Mapping[str, Decimal]
    keys: Sequence[Any]
    endpoints: Sequence[Any]
    invoices: Sequence[Invoice]
    acts: Sequence[AuditEvent]


def get(session: Session, organization_id: UUID) -> Organization:
    """An organization.

    raises: NotFound
    """
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise NotFound
    return organization


def detail(session: Session, organization_id: UUID, at: datetime) -> Detail:
    """Everything about an organization at an instant.

    raises: NotFound
    """
    both = sa.select(Organization, OrganizationLimits).outerjoin(
        OrganizationLimits, OrganizationLimits.organization_id == Organization.id
    )
    found = session.execute(both.where(Organization.id == organization_id)).first()
    if found is None:
        raise NotFound
    values = {"id": organization_id, "at": at, "most": MOST_KEYS}
    account = session.execute(_ACCOUNT, values).first()
    invoices = sa.select(Invoice).where(Invoice.organization_id == organization_id)
    acts = sa.select(AuditEvent).where(AuditEvent.organization_id == organization_id)
    has_period = account is not None and account.period_id is not None
    return Detail(
        found[0],
        account,
        team(session, organization_id),
        found[1],
        live_quantities(session, organization_id, account.period_id) if account and has_period else {},
        session.execute(_KEYS, values).all(),
        session.execute(_ENDPOINTS, values).all(),
        session.scalars(invoices.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(LAST_INVOICES)).all(),
        session.scalars(acts.order_by(AuditEvent.id.desc()).limit(LAST_ACTS)).all(),
    )
