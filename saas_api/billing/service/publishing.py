"""New versions of plans, from a file or when the setting names another rate; a running period is never repriced."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.models import Entitlement, Meter, Plan, PlanVersion, Price, PriceTier
from saas_api.billing.queries import catalogue
from saas_api.billing.rules.plans.catalogue import Difference, PlanContent, differences, document
from saas_api.billing.rules.plans.plan_file import BadPlan, read_plan
from saas_api.billing.service.periods import FIRST_PLAN
from saas_api.core import clock, tenancy
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.ids import new_id
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit

log = get_logger(__name__)


class NoSuchPlan(NotFound):
    """The catalogue has no such plan."""

    message = "There is no such plan."


class PlanNeeded(Conflict):
    """New organizations, and those whose payment failed for good, are put on this plan."""

    code, message = "PLAN_NEEDED", "This plan cannot be retired: new organizations start on it."


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
            price = catalogue.prices(session, [old])[old, METER]
            if price.model == "per_unit" and price.unit_price != rate:
                newest = _reprice(session, old, rate)
                published.append(newest)
            behind = session.execute(_BEHIND, {"plan": plan, "newest": newest, "at": clock.now()}).all()
            for row in behind:
                _move(session, row.organization_id, {"newest": newest, "moves_at": row.moves_at})
    return published


def _reprice(session: Session, old: str, rate: Decimal) -> str:
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


@dataclass(frozen=True)
class Published:
    """What a plan's file came to.

    version_id: the version it is now, or would be; None where the newest version says the same
    previous: the newest version before; None for a new plan
    """

    plan: str
    version_id: str | None
    previous: str | None
    differences: Sequence[Difference]


def publish(written: Any, actor: audit.Actor, *, is_dry: bool = False) -> Published:
    """Publish a plan's document as the plan's next version; a repeat publishes nothing.

    Nobody who is on the plan is moved. A name, position or visibility alone is set without a version.
    is_dry: only say what would differ
    raises: BadPlan with every problem
    """
    with tenancy.as_system("billing.catalogue") as session:
        session.execute(_LOCK)
        known = catalogue.meters(session)
        wanted = read_plan(written, known)
        previous = catalogue.find_newest(session, wanted.code)
        old = catalogue.content(session, previous) if previous else None
        _check(session, wanted, old)
        new_meters = [meter for meter in wanted.meters if meter.code not in known]
        filled = _fill(session, replace(wanted, meters=new_meters), old)
        found = differences(document(old) if old else {}, document(filled))
        version_id = _next(filled.code, previous) if not old or _is_other(old, filled) else None
        if found and not is_dry:
            _write(session, filled, version_id)
            changes = {difference.path: [difference.before, difference.after] for difference in found}
            action = "plan.published" if version_id else "plan.changed"
            audit.record(session, None, actor, action, ("plan", version_id or filled.code), {"changes": changes})
            log.info("plan_published", version=version_id or previous, differences=len(found))
    return Published(filled.code, version_id, previous, found)


def retire(plan: str, actor: audit.Actor, reason: str | None = None, *, is_undone: bool = False) -> bool:
    """Offer a plan no longer; whoever is on it stays, and may be put on it no more. A repeat changes nothing.

    reason: for the log of acts
    is_undone: offer it again
    returns: whether anything changed
    raises: NoSuchPlan; PlanNeeded for the one that new organizations start on
    """
    if plan == FIRST_PLAN:
        raise PlanNeeded
    with tenancy.as_system("billing.catalogue") as session:
        session.execute(_LOCK)
        found = session.get(Plan, plan)
        if found is None:
            raise NoSuchPlan
        if (found.archived_at is None) == is_undone:
            return False
        found.archived_at = None if is_undone else clock.now()
        action = "plan.offered_again" if is_undone else "plan.retired"
        audit.record(session, None, actor, action, ("plan", plan), {"reason": reason} if reason else None)
    return True


def _check(session: Session, wanted: PlanContent, old: PlanContent | None) -> None:
    """Refuse what the file alone does not show to be wrong."""
    problems = []
    if old and old.currency != wanted.currency:
        problems.append(("currency", f"plan {wanted.code} is in {old.currency}; another currency needs another plan"))
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    if wanted.code in FOLLOWS_SETTING:
        price = wanted.prices[METER]
        if price.model != "per_unit" or price.unit_price != rate:
            reason = f"follows BILLING_RATE_PER_REQUEST ({rate}) on this plan, per unit; change that setting"
            problems.append((f"prices.{METER}", reason))
    archived = text("SELECT code FROM meters WHERE archived_at IS NOT NULL AND code = ANY (:codes)")
    retired = session.scalars(archived, {"codes": [meter.code for meter in wanted.meters]})
    problems += [("meters", f"meter {code} is retired") for code in retired]
    if problems:
        raise BadPlan(problems)


def _fill(session: Session, wanted: PlanContent, old: PlanContent | None) -> PlanContent:
    """The plan with what its file leaves as it is."""
    last = session.scalar(text("SELECT coalesce(max(position), 0) + 1 FROM plans"))
    position = wanted.position or (old.position if old else last)
    is_public = wanted.is_public if wanted.is_public is not None else old is None or bool(old.is_public)
    return replace(wanted, position=position, is_public=is_public)


def _is_other(old: PlanContent, new: PlanContent) -> bool:
    """Whether the versioned part differs: anything that charges or allows."""
    unversioned = {"name": "", "position": None, "is_public": None, "meters": ()}
    return document(replace(old, **unversioned)) != document(replace(new, **unversioned))  # type: ignore[arg-type]  # the fields differ in type


def _next(code: str, previous: str | None) -> str:
    return f"{code}@{int(previous.rpartition('@')[2]) + 1 if previous else 1}"


def _write(session: Session, content: PlanContent, version_id: str | None) -> None:
    session.add_all(Meter(**asdict(meter)) for meter in content.meters)
    plan = session.merge(Plan(code=content.code, name=content.name, position=content.position))
    plan.is_public = bool(content.is_public)
    session.flush()  # the version refers to both
    if version_id is None:
        return
    version = PlanVersion(
        id=version_id,
        plan_code=content.code,
        version=int(version_id.rpartition("@")[2]),
        state="draft",
        currency=content.currency,
        base_amount_minor=content.base_amount_minor,
        min_spend_minor=content.min_spend_minor,
    )
    session.add(version)
    session.flush()  # prices and entitlements refer to it
    _add_prices(session, content, version_id)
    for feature, right in content.rights.items():
        entitlement = Entitlement(plan_version_id=version_id, feature=feature, kind=right.kind, value=right.value)
        if right.kind == "metered":
            entitlement.meter_code = right.value["meter"]
            entitlement.limit_quantity = Decimal(right.value["limit"])
        session.add(entitlement)
    session.flush()  # published, it takes no further row
    version.state, version.published_at = "published", clock.now()


def _add_prices(session: Session, content: PlanContent, version_id: str) -> None:
    for meter, price in content.prices.items():
        is_package = price.model == "package"
        session.add(
            Price(
                plan_version_id=version_id,
                meter_code=meter,
                model=price.model,
                included_quantity=price.included_quantity,
                unit_price=price.unit_price if price.model == "per_unit" else None,
                package_size=price.package_size if is_package else None,
                package_amount_minor=price.package_amount_minor if is_package else None,
                max_amount_minor=price.max_amount_minor,
            )
        )
    session.flush()  # the tiers refer to them
    session.add_all(
        PriceTier(plan_version_id=version_id, meter_code=meter, ordinal=ordinal, **asdict(tier))
        for meter, price in content.prices.items()
        for ordinal, tier in enumerate(price.tiers, start=1)
    )
