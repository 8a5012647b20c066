"""Terms of service that the gate applies to an organization, and the limit overrides that operators set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import OrganizationLimits
from saas_api.billing import period_spend, periods, plans
from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.plan_file import RATE_LIMIT_FEATURE
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.usage import meters


@dataclass(frozen=True)
class LimitOverrides:
    """Limits of one organization that replace those of its plan.

    rate_limit: requests a minute, 1 to 1,000,000; None for the plan's
    quotas: by meter, in its unit, in one billing period; absent for the plan's
    expires_at: end of the overrides; None for never
    """

    rate_limit: int | None = None
    quotas: Mapping[str, Decimal] = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every limit is the plan's."""
        return self.rate_limit is None and not self.quotas


@dataclass(frozen=True)
class SpendCap:
    """A spend cap that blocks calls.

    base_minor: base amounts of the whole period, which count against the cap first
    prices: by meter, of the plan version in force; included quantity is what other versions of the plan have left
    """

    amount_minor: int
    base_minor: int
    prices: Mapping[str, MeterPrice]


@dataclass(frozen=True)
class ServiceTerms:
    """Terms of service of an organization at one moment.

    organization_status: set by operators
    standing: consequence of unpaid invoices
    generation: of the organization, at the time of the read
    list_prices: price of one unit by meter, in major units
    quotas: by meter, in its unit, for one billing period; absent without a limit
    entitlements: of the plan version, by feature
    external_id: how services know the organization; None for no such name
    cap: None without a spend cap that blocks
    exact_meters: meters that do not add up, which limits know only as of the last minute
    """

    organization_status: str
    standing: str
    generation: int
    plan_version_id: str
    currency: str
    rate_limit_per_minute: int
    period_id: UUID
    period_ends_at: datetime
    list_prices: Mapping[str, Decimal]
    quotas: Mapping[str, Decimal]
    entitlements: Mapping[str, Any]
    external_id: str | None = None
    cap: SpendCap | None = None
    exact_meters: frozenset[str] = frozenset()

    @property
    def plan_code(self) -> str:
        """Code of the plan: "pro" of "pro@3"."""
        return plans.plan_for_version(self.plan_version_id)


def get_overrides(session: SystemSession, organization_id: UUID) -> LimitOverrides:
    """The limit overrides of an organization, also when they have expired."""
    return _to_overrides(session.get(OrganizationLimits, organization_id))


_TERMS = text("""
SELECT o.status, o.external_id, s.standing, o.generation, v.id AS version_id, v.currency, e.value AS rate_limit,
  l.rate_limit_per_minute, coalesce(l.ceilings, '{}') AS overrides,
  p.id AS period_id, p.ends_at,
  CASE b.spend_cap_action WHEN 'block' THEN b.spend_cap_minor END AS cap_minor,
  (SELECT coalesce(jsonb_object_agg(meter_code, limit_quantity::text), '{}') FROM entitlements
    WHERE plan_version_id = v.id AND kind = 'metered') AS quotas,
  (SELECT jsonb_object_agg(feature, value) FROM entitlements WHERE plan_version_id = v.id) AS entitlements,
  ARRAY(SELECT code FROM meters WHERE aggregation IN ('max', 'unique', 'latest')) AS exact_meters
FROM organizations o
JOIN subscriptions s ON s.organization_id = o.id
JOIN subscription_segments g ON g.organization_id = o.id AND g.starts_at <= greatest(:at, s.started_at)
  AND (g.ends_at IS NULL OR g.ends_at > greatest(:at, s.started_at))
JOIN plan_versions v ON v.id = g.plan_version_id
JOIN entitlements e ON e.plan_version_id = v.id AND e.feature = :feature
JOIN LATERAL (SELECT id, ends_at FROM billing_periods
  WHERE organization_id = o.id AND state = 'open' AND ends_at > :at ORDER BY seq LIMIT 1) p ON true
LEFT JOIN billing_profiles b ON b.organization_id = o.id
LEFT JOIN organization_limits l ON l.organization_id = o.id AND (l.expires_at IS NULL OR l.expires_at > :at)
WHERE o.id = :organization_id""")


def get_terms(session: Session, organization_id: UUID) -> ServiceTerms:
    """Current terms of an organization. Opens its billing account and period if they are missing.

    raises: OrganizationNotFound
    """
    row = _find_row(session, organization_id)
    if row is None:
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, clock.now())
        row = _find_row(session, organization_id)
    if row is None:
        raise RuntimeError(f"organization {organization_id} has no open billing period")
    prices = {meter: price for (_, meter), price in plans.get_prices(session, [row.version_id]).items()}
    cap = None
    if row.cap_minor is not None:
        basis = period_spend.get_base_and_prices(session, organization_id, row.period_id, row.version_id)
        cap = SpendCap(row.cap_minor, *basis)
    return ServiceTerms(
        organization_status=row.status,
        standing=row.standing,
        generation=row.generation,
        plan_version_id=row.version_id,
        currency=row.currency,
        rate_limit_per_minute=row.rate_limit_per_minute or plans.resolve_rate_limit(row.rate_limit),
        period_id=row.period_id,
        period_ends_at=row.ends_at,
        list_prices={meter: charges.list_price_cost(price, Decimal(1)) for meter, price in prices.items()},
        quotas={meter: Decimal(str(limit)) for meter, limit in {**row.quotas, **row.overrides}.items()},
        entitlements={**row.entitlements, RATE_LIMIT_FEATURE: plans.resolve_rate_limit(row.rate_limit)},
        external_id=row.external_id,
        cap=cap,
        exact_meters=frozenset(row.exact_meters),
    )


def _find_row(session: Session, organization_id: UUID) -> Row[Any] | None:
    values = {"organization_id": organization_id, "at": clock.now(), "feature": RATE_LIMIT_FEATURE}
    return session.execute(_TERMS, values).first()


def set_overrides(
    session: SystemSession, organization_id: UUID, overrides: LimitOverrides, actor: Actor, reason: str
) -> None:
    """Replace the limit overrides of an organization. Empty ones restore the limits of its plan.

    raises: OrganizationNotFound, ValidationFailed
    """
    reason = organizations.validate_reason(reason)
    _validate(session, overrides)
    organizations.get_organization(session, organization_id)
    row = session.get(OrganizationLimits, organization_id, with_for_update=True, populate_existing=True)
    before = _to_overrides(row)
    if overrides == before:
        raise ValidationFailed.at_field("rate_limit", "These limits hold already.")
    if overrides.is_empty:
        session.delete(row)
    else:
        row = row or OrganizationLimits(organization_id=organization_id)
        row.rate_limit_per_minute = overrides.rate_limit
        row.quotas = {meter: f"{limit.normalize():f}" for meter, limit in overrides.quotas.items()}
        row.expires_at, row.reason = overrides.expires_at, reason
        row.set_by = UUID(actor.id) if actor.kind == "operator" and actor.id else None
        session.add(row)
    session.flush()  # the gate reads the row as soon as the generation rises
    organizations.bump_generation(session, organization_id)
    data = {"before": _audit_data(before), "after": _audit_data(overrides), "reason": reason}
    audit.record_event(session, organization_id, actor, "limits.changed", ("organization", organization_id), data)


def _validate(session: SystemSession, overrides: LimitOverrides) -> None:
    if overrides.expires_at and overrides.expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_on", "Must be in the future.")
    if overrides.is_empty and overrides.expires_at:
        raise ValidationFailed.at_field("expires_on", "There is no limit that could end.")
    codes = meters.all_meters(session)
    unknown = [(f"quota_{meter}", "There is no such meter.") for meter in overrides.quotas if meter not in codes]
    if unknown:
        raise ValidationFailed.from_fields(unknown)


def _to_overrides(row: OrganizationLimits | None) -> LimitOverrides:
    if row is None:
        return LimitOverrides()
    quotas = {meter: Decimal(str(limit)) for meter, limit in row.quotas.items()}
    return LimitOverrides(row.rate_limit_per_minute, quotas, row.expires_at)


def _audit_data(overrides: LimitOverrides) -> dict[str, Any]:
    return {
        "rate_limit_per_minute": overrides.rate_limit,
        "ceilings": {meter: f"{limit.normalize():f}" for meter, limit in overrides.quotas.items()},
        "expires_at": overrides.expires_at and clock.format_rfc3339(overrides.expires_at),
    }
