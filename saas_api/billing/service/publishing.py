"""New versions of the small plans when the setting names another rate; a running period is never repriced."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue
from saas_api.core import clock, tenancy
from saas_api.core.ids import new_id
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations

log = get_logger(__name__)

FOLLOWS_SETTING = ("free", "starter")
METER = "sms"

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('billing.catalogue', 2))")
_DRAFT = text("""
INSERT INTO plan_versions (id, plan_code, version, currency, base_amount_minor, min_spend_minor)
SELECT plan_code || '@' || version + 1, plan_code, version + 1, currency, base_amount_minor, min_spend_minor
FROM plan_versions WHERE id = :old RETURNING id""")
_COPIES = (
    text("""INSERT INTO prices SELECT :new, meter_code, model, included_quantity,
      CASE meter_code WHEN :meter THEN :rate ELSE unit_price END, package_size, package_amount_minor, max_amount_minor
      FROM prices WHERE plan_version_id = :old"""),
    text("""INSERT INTO price_tiers SELECT :new, meter_code, ordinal, up_to, unit_price, flat_minor
      FROM price_tiers WHERE plan_version_id = :old"""),
    text("""INSERT INTO entitlements SELECT :new, feature, kind, value, meter_code, limit_quantity
      FROM entitlements WHERE plan_version_id = :old"""),
    text("UPDATE plan_versions SET state = 'published', published_at = now() WHERE id = :new"),
)
# Whoever is on an older version of the plan, with the end of the running period; a scheduled change stays as it is.
_BEHIND = text("""
SELECT s.organization_id, min(p.ends_at) AS moves_at FROM subscription_segments s
JOIN plan_versions v ON v.id = s.plan_version_id AND v.plan_code = :plan AND v.id <> :newest
JOIN billing_periods p ON p.organization_id = s.organization_id AND p.state = 'open' AND p.ends_at > :at
WHERE s.ends_at IS NULL AND s.starts_at <= :at GROUP BY s.organization_id""")
_END = text("""
UPDATE subscription_segments SET ends_at = :moves_at WHERE organization_id = :organization_id AND ends_at IS NULL
  AND starts_at < :moves_at RETURNING subscription_id, seq""")
_FOLLOW = text("""
INSERT INTO subscription_segments (organization_id, id, subscription_id, seq, plan_version_id, starts_at)
VALUES (:organization_id, :id, :subscription_id, :seq, :newest, :moves_at)""")


def sync_rate() -> list[str]:
    """Publish the next version of each small plan whose price is not BILLING_RATE_PER_REQUEST.

    New organizations get it at once, the others from their next period. A repeat changes nothing.
    returns: ids of the versions that were published
    """
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    published = []
    for plan in FOLLOWS_SETTING:
        with tenancy.as_system("billing.catalogue") as session:
            session.execute(_LOCK)
            old = catalogue.newest(session, plan)
            newest = old
            if catalogue.prices(session, [old])[old, METER].unit_price != rate:
                newest = _publish(session, old, rate)
                published.append(newest)
            behind = session.execute(_BEHIND, {"plan": plan, "newest": newest, "at": clock.now()}).all()
            for row in behind:
                _move(session, row.organization_id, {"newest": newest, "moves_at": row.moves_at})
    return published


def _publish(session: Session, old: str, rate: Decimal) -> str:
    new = str(session.execute(_DRAFT, {"old": old}).scalar_one())
    for statement in _COPIES:
        session.execute(statement, {"old": old, "new": new, "meter": METER, "rate": rate})
    log.info("plan_published", version=new, rate=str(rate))
    return new


def _move(session: Session, organization_id: UUID, values: dict[str, object]) -> None:
    named = {**values, "organization_id": organization_id}
    ended = session.execute(_END, named).first()
    if ended is not None:
        following = {"id": new_id(), "subscription_id": ended.subscription_id, "seq": ended.seq + 1}
        session.execute(_FOLLOW, {**named, **following})
        organizations.changed(session, organization_id)
