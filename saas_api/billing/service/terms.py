"""The terms an organization is served on, as the gate and the accept path need them: one statement, then prices."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue, spending
from saas_api.billing.rules import rating
from saas_api.billing.service.periods import ensure_account, ensure_period
from saas_api.core import clock


@dataclass(frozen=True)
class Cap:
    """A spend cap that stops calls.

    base_minor: of the whole period, which every cap covers first
    prices: by meter, of the plan version in force
    """

    amount_minor: int
    base_minor: int
    prices: Mapping[str, rating.Price]


@dataclass(frozen=True)
class Terms:
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
    cap: Cap | None = None


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


def terms(session: Session, organization_id: UUID) -> Terms:
    """Terms of an organization now; opens its account and its period where they are missing.

    raises: NoSuchOrganization
    """
    row = _read(session, organization_id)
    if row is None:
        ensure_account(session, organization_id)
        ensure_period(session, organization_id, clock.now())
        row = _read(session, organization_id)
    if row is None:
        raise RuntimeError(f"organization {organization_id} has no open billing period")
    prices = {meter: price for (_, meter), price in catalogue.prices(session, [row.version_id]).items()}
    cap = None
    if row.cap_minor is not None:
        cap = Cap(row.cap_minor, spending.base_minor(session, organization_id, row.period_id), prices)
    return Terms(
        organization_status=row.status,
        standing=row.standing,
        generation=row.generation,
        plan_version_id=row.version_id,
        currency=row.currency,
        rate_limit_per_minute=row.rate_limit_per_minute or catalogue.rate_limit(row.rate_limit),
        period_id=row.period_id,
        period_starts_at=row.starts_at,
        period_ends_at=row.ends_at,
        list_prices={meter: rating.list_cost(price, Decimal(1)) for meter, price in prices.items()},
        ceilings={meter: Decimal(str(limit)) for meter, limit in {**row.ceilings, **row.exceptions}.items()},
        cap=cap,
    )


def _read(session: Session, organization_id: UUID) -> Row[Any] | None:
    values = {"organization_id": organization_id, "at": clock.now(), "feature": catalogue.RATE_LIMIT}
    return session.execute(_TERMS, values).first()
