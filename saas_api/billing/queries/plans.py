"""What plan an organization is on, and what a period's bill depends on under plans that are not in force."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, Subscription
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.inputs import find_earliest_open, find_running
from saas_api.billing.rules.bill import Late, PeriodInputs, Stretch, Used, Version
from saas_api.billing.rules.plans.changes import Stage, in_force, scheduled, stretches
from saas_api.usage.queries import ledger
from saas_api.usage.queries.live import LIVE

_STAGES = text("""SELECT plan_version_id, starts_at FROM subscription_segments
  WHERE organization_id = :organization_id ORDER BY seq""")
_USED = text("""
SELECT s.version_id, e.meter_code AS meter, sum(e.quantity) AS quantity
FROM usage_events e JOIN LATERAL (
  SELECT version_id FROM unnest(CAST(:versions AS text[]), CAST(:starts AS timestamptz[])) AS s (version_id, starts_at)
  WHERE s.starts_at <= e.occurred_at ORDER BY s.starts_at DESC LIMIT 1) s ON true
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.late_for_period_id IS NULL
GROUP BY 1, 2 ORDER BY 1, 2""")
_HAPPENED = text(f"""
WITH live AS ({LIVE})
SELECT period_id, meter_code, sum(quantity) FROM (
  SELECT billing_period_id AS period_id, meter_code, quantity FROM live
  WHERE billing_period_id = ANY (:periods) AND NOT is_late
  UNION ALL
  SELECT late_for_period_id, meter_code, quantity FROM usage_events
  WHERE organization_id = :organization_id AND late_for_period_id = ANY (:periods)) used
GROUP BY 1, 2 ORDER BY 1, 2""")


@dataclass(frozen=True)
class Held:
    """What an organization has subscribed to.

    scheduled: what is going to take effect later, with its version
    period: the running one
    """

    subscription: Subscription
    stage: Stage
    version: Version
    period: BillingPeriod | None
    scheduled: tuple[Stage, Version] | None


def held(session: Session, organization_id: UUID, at: datetime) -> Held:
    """The subscription of an organization that has its account."""
    subscription = session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()
    known = stages(session, organization_id)
    now, later = in_force(known, at), scheduled(known, at)
    versions = catalogue.versions(session, {now.version_id, *([later.version_id] if later else [])})
    period = find_running(session, organization_id, at) or find_earliest_open(session, organization_id)
    coming = (later, versions[later.version_id]) if later else None
    return Held(subscription, now, versions[now.version_id], period, coming)


def stages(session: Session, organization_id: UUID) -> list[Stage]:
    """Every plan version the organization has been on or is going to be on, in order."""
    rows = session.execute(_STAGES, {"organization_id": organization_id})
    return [Stage(*row) for row in rows]


def inputs_under(session: Session, period: BillingPeriod, planned: Sequence[Stage]) -> PeriodInputs:
    """Inputs of a whole period's bill as if these stages were the organization's."""
    parts = stretches(planned, period.starts_at, period.ends_at)
    values = {
        "organization_id": period.organization_id,
        "period_id": period.id,
        "versions": [stage.version_id for stage in planned],
        "starts": [stage.starts_at for stage in planned],
    }
    used = tuple(Used(**row) for row in session.execute(_USED, values).mappings())
    late = tuple(Late(**row) for row in ledger.late_quantities(session, period.organization_id, period.id))
    versions = catalogue.versions(session, {part.version_id for group in (parts, used, late) for part in group})
    return PeriodInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts, used, late)


def inputs_on(period: BillingPeriod, version: Version, quantities: Mapping[str, Decimal]) -> PeriodInputs:
    """Inputs of a whole period's bill as if one version had been in force all the time.

    quantities: by meter, in its unit
    """
    used = tuple(Used(version.id, meter, quantity) for meter, quantity in sorted(quantities.items()))
    part = Stretch(version.id, period.starts_at, period.ends_at)
    bounds = period.starts_at, period.ends_at, period.nominal_seconds
    return PeriodInputs(*bounds, {version.id: version}, (part,), used)


def before(session: Session, period: BillingPeriod, count: int) -> Sequence[BillingPeriod]:
    """The last periods before one, the newest first."""
    earlier = select(BillingPeriod).where(
        BillingPeriod.organization_id == period.organization_id, BillingPeriod.seq < period.seq
    )
    return session.scalars(earlier.order_by(BillingPeriod.seq.desc()).limit(count)).all()


def happened(
    session: Session, organization_id: UUID, periods: Sequence[BillingPeriod]
) -> Mapping[UUID, Mapping[str, Decimal]]:
    """What was used in each period, by meter, whichever period has paid or is going to pay for it."""
    values = {"organization_id": organization_id, "periods": [period.id for period in periods]}
    found: defaultdict[UUID, dict[str, Decimal]] = defaultdict(dict)
    for period_id, meter, quantity in session.execute(_HAPPENED, values):
        found[period_id][meter] = quantity
    return found
