"""ServiceTerms of an organization for the gate; operator limit overrides."""

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
from saas_api.core.errors import ValidationFailed


@dataclass(frozen=True)
class LimitOverrides:
    """What holds instead of the plan's limits.

    rate_limit: requests a minute, 1 to 1,000,000; None for the plan's
    ceilings: by meter, in its unit, in one billing period; absent for the plan's
    expires_at: the plan holds again from then on; None for never
    """

    rate_limit: int | None = None
    ceilings: Mapping[str, Decimal] = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the plan holds as it is."""
        return self.rate_limit is None and not self.ceilings


def get_overrides(session: Session, organization_id: UUID) -> LimitOverrides:
    """The exceptions that were made for an organization, expired ones too."""
    return _audit_data(session.get(OrganizationLimits, organization_id))


def set_overrides(
    session: Session, organization_id: UUID, exceptions: LimitOverrides, actor: Actor, reason: str
) -> None:
    """Make exceptions for an organization instead of those it has; empty ones give it back to its plan.

    session: of the system
    raises: NoSuchOrganization, Invalid
    """
    told = organizations.validate_reason(reason)
    _check(session, exceptions)
    organizations.get(session, organization_id)
    row = session.get(OrganizationLimits, organization_id, with_for_update=True, populate_existing=True)
    before = _audit_data(row)
    if exceptions == before:
        raise ValidationFailed.at_field("rate_limit", "These limits hold already.")
    if exceptions.is_empty:
        session.delete(row)
    else:
        row = row or OrganizationLimits(organization_id=organization_id)
        row.rate_limit_per_minute = exceptions.rate_limit
        row.ceilings = {meter: f"{limit.normalize():f}" for meter, limit in exceptions.ceilings.items()}
        row.expires_at, row.reason = exceptions.expires_at, told
        row.set_by = UUID(actor.id) if actor.kind == "operator" and actor.id else None
        session.add(row)
    session.flush()  # the gate reads the row once the change is known
    organizations.bump_generation(session, organization_id)
    data = {"before": _audit_text(before), "after": _audit_text(exceptions), "reason": told}
    audit.record_event(session, organization_id, actor, "limits.changed", ("organization", organization_id), data)


def _check(session: Session, exceptions: LimitOverrides) -> None:
    if exceptions.expires_at and exceptions.expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_on", "Must be in the future.")
    if exceptions.is_empty and exceptions.expires_at:
        raise ValidationFailed.at_field("expires_on", "There is no limit that could end.")
    known = plans.meter_units(session)
    unknown = [(f"ceilings.{meter}", "There is no such meter.") for meter in exceptions.ceilings if meter not in known]
    if unknown:
        raise ValidationFailed.from_fields(unknown)


def _audit_data(row: OrganizationLimits | None) -> LimitOverrides:
    if row is None:
        return LimitOverrides()
    ceilings = {meter: Decimal(str(limit)) for meter, limit in row.ceilings.items()}
    return LimitOverrides(row.rate_limit_per_minute, ceilings, row.expires_at)


def _audit_text(exceptions: LimitOverrides) -> dict[str, Any]:
    return {
        "rate_limit_per_minute": exceptions.rate_limit,
        "ceilings": {meter: f"{limit.normalize():f}" for meter, limit in exceptions.ceilings.items()},
        "expires_at": exceptions.expires_at and clock.format_rfc3339(exceptions.expires_at),
    }


@dataclass(frozen=True)
class SpendCap:
    """A spend cap that stops calls.

    base_minor: of the whole period, which every cap covers first
    prices: by meter, of the plan version in force
    """

    amount_minor: int
    base_minor: int
    prices: Mapping[str, MeterPrice]


@dataclass(frozen=True)
class ServiceTerms:
    """What holds for an organization at this moment.

    organization_status: the operator's switch; standing: what unpaid invoices have led to
    generation: of the organization, when this was read
    list_prices: by meter, of one unit, in major units
    ceilings: by meter, in its unit; absent where a period may hold any quantity
    cap: on what a period may cost; None where nothing is stopped
    """

    organization_status: str
    standing: str
    generation: int
    plan_version_id: str
    currency: str
    rate_limit_per_minute: int
    period_id: UUID
    period_starts_at: datetime
    period_ends_at: datetime
    list_prices: Mapping[str, Decimal]
    ceilings: Mapping[str, Decimal]
    cap: SpendCap | None = None


_TERMS = text("""
SELECT o.status, s.standing, o.generation, v.id AS version_id, v.currency, e.value AS rate_limit,
  l.rate_limit_per_minute, coalesce(l.ceilings, '{}') AS exceptions,
  p.id AS period_id, p.starts_at, p.ends_at,
  CASE b.spend_cap_action WHEN 'block' THEN b.spend_cap_minor END AS cap_minor,
  (SELECT coalesce(jsonb_object_agg(meter_code, limit_quantity::text), '{}') FROM entitlements
    WHERE plan_version_id = v.id AND kind = 'metered') AS ceilings
FROM organizations o
JOIN subscriptions s ON s.organization_id = o.id
JOIN subscription_segments g ON g.organization_id = o.id AND g.starts_at <= greatest(:at, s.started_at)
  AND (g.ends_at IS NULL OR g.ends_at > greatest(:at, s.started_at))
JOIN plan_versions v ON v.id = g.plan_version_id
JOIN entitlements e ON e.plan_version_id = v.id AND e.feature = :feature
JOIN LATERAL (SELECT id, starts_at, ends_at FROM billing_periods
  WHERE organization_id = o.id AND state = 'open' AND ends_at > :at ORDER BY seq LIMIT 1) p ON true
LEFT JOIN billing_profiles b ON b.organization_id = o.id
LEFT JOIN organization_limits l ON l.organization_id = o.id AND (l.expires_at IS NULL OR l.expires_at > :at)
WHERE o.id = :organization_id""")


def get_terms(session: Session, organization_id: UUID) -> ServiceTerms:
    """Terms of an organization now; opens its account and its period where they are missing.

    raises: NoSuchOrganization
    """
    row = _read(session, organization_id)
    if row is None:
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, clock.now())
        row = _read(session, organization_id)
    if row is None:
        raise RuntimeError(f"organization {organization_id} has no open billing period")
    prices = {meter: price for (_, meter), price in plans.get_prices(session, [row.version_id]).items()}
    cap = None
    if row.cap_minor is not None:
        cap = SpendCap(row.cap_minor, period_spend.period_base_minor(session, organization_id, row.period_id), prices)
    return ServiceTerms(
        organization_status=row.status,
        standing=row.standing,
        generation=row.generation,
        plan_version_id=row.version_id,
        currency=row.currency,
        rate_limit_per_minute=row.rate_limit_per_minute or plans.resolve_rate_limit(row.rate_limit),
        period_id=row.period_id,
        period_starts_at=row.starts_at,
        period_ends_at=row.ends_at,
        list_prices={meter: charges.list_price_cost(price, Decimal(1)) for meter, price in prices.items()},
        ceilings={meter: Decimal(str(limit)) for meter, limit in {**row.ceilings, **row.exceptions}.items()},
        cap=cap,
    )


def _read(session: Session, organization_id: UUID) -> Row[Any] | None:
    values = {"organization_id": organization_id, "at": clock.now(), "feature": RATE_LIMIT_FEATURE}
    return session.execute(_TERMS, values).first()
