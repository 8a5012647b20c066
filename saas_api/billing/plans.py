"""Plan versions: list, prices, offers; publish, archive, sync_setting_price."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing.models import Entitlement, Meter, Plan, PlanVersion, PlanVersionStatus, Price, PriceTier
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice, Tier
from saas_api.billing.rating.plan_file import (
    RATE_LIMIT_FEATURE,
    EntitlementContent,
    InvalidPlanFile,
    MeterContent,
    PlanContent,
    PlanDifference,
)
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)


@dataclass(frozen=True)
class SelectablePlan:
    """The newest published version of a plan.

    is_open: whether anybody may choose the plan, or only an operator for them
    """

    code: str
    version: RatedPlanVersion
    is_open: bool


@dataclass(frozen=True)
class PlanVersionRow:
    """A published version in a list; times in UTC."""

    code: str
    version_id: str
    published_at: datetime
    is_newest: bool
    is_archived: bool
    organizations: int


@dataclass(frozen=True)
class PlanOffer:
    """A plan as it is offered: its newest published version.

    rate_limit: requests a minute
    """

    code: str
    name: str
    version: RatedPlanVersion
    rate_limit: int


def get_versions(session: Session, ids: Collection[str]) -> dict[str, RatedPlanVersion]:
    """Plan versions by id, with their prices; a published one never changes, so a session reads it once."""
    known: dict[str, RatedPlanVersion] = session.info.setdefault(_VERSION_CACHE, {})
    missing = set(ids) - known.keys()
    drafts: dict[str, RatedPlanVersion] = {}
    if missing:
        charged = _prices(session, missing)
        rows = session.execute(_VERSIONS, {"ids": list(missing)}).mappings().all()
        for row in rows:
            shape = {name: value for name, value in row.items() if name != "state"}
            kept = drafts if row["state"] == "draft" else known
            kept[row["id"]] = RatedPlanVersion(**shape, prices=charged[row["id"]])
    found = {**known, **drafts}
    return {version_id: found[version_id] for version_id in ids if version_id in found}


def get_prices(session: Session, ids: Collection[str]) -> dict[tuple[str, str], MeterPrice]:
    """Prices by plan version and meter."""
    found = get_versions(session, ids)
    return {
        (version_id, meter): price for version_id, version in found.items() for meter, price in version.prices.items()
    }


_VERSION_CACHE = "plan_versions"
_VERSIONS = text("""SELECT v.id, p.name, v.currency, v.base_amount_minor, v.min_spend_minor, v.state
  FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)""")
_PRICES = text("""SELECT p.*, v.currency, (
    SELECT array_agg(ARRAY[t.up_to, t.unit_price, t.flat_minor] ORDER BY t.ordinal) FROM price_tiers t
     WHERE t.plan_version_id = p.plan_version_id AND t.meter_code = p.meter_code) AS tiers
  FROM prices p JOIN plan_versions v ON v.id = p.plan_version_id
  WHERE p.plan_version_id = ANY (:ids) ORDER BY p.plan_version_id, p.meter_code""")


def _prices(session: Session, ids: Collection[str]) -> defaultdict[str, dict[str, MeterPrice]]:
    charged: defaultdict[str, dict[str, MeterPrice]] = defaultdict(dict)
    for row in session.execute(_PRICES, {"ids": list(ids)}):
        charged[row.plan_version_id][row.meter_code] = MeterPrice(
            model=row.model,
            exponent=money.currency_exponent(row.currency),
            included_quantity=row.included_quantity,
            unit_price=row.unit_price or MeterPrice.unit_price,
            tiers=tuple(Tier(up_to, each, int(flat)) for up_to, each, flat in row.tiers or ()),
            package_size=row.package_size or MeterPrice.package_size,
            package_amount_minor=row.package_amount_minor or 0,
            max_amount_minor=row.max_amount_minor,
        )
    return charged


def version_currency(session: Session, version_id: str) -> str:
    """Currency of a plan version."""
    return str(session.scalar(text("SELECT currency FROM plan_versions WHERE id = :id"), {"id": version_id}))


def newest_version_id(session: Session, plan_code: str) -> str:
    """Id of the newest published version of a plan."""
    newest_of = text("""SELECT id FROM plan_versions WHERE plan_code = :plan AND state = 'published'
      ORDER BY version DESC LIMIT 1""")
    return str(session.execute(newest_of, {"plan": plan_code}).scalar_one())


def list_selectable_plans(session: Session, codes: Collection[str] | None = None) -> dict[str, SelectablePlan]:
    """What may be chosen, by plan: its newest published version; archived plans are left out.

    codes: None for all
    """
    rows = session.execute(
        text("""SELECT DISTINCT ON (p.position, p.code) p.code, p.is_public, v.id
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state = 'published'
          WHERE p.archived_at IS NULL AND (CAST(:codes AS text[]) IS NULL OR p.code = ANY (:codes))
          ORDER BY p.position, p.code, v.version DESC"""),
        {"codes": None if codes is None else list(codes)},
    ).all()
    found = get_versions(session, [row.id for row in rows])
    return {row.code: SelectablePlan(row.code, found[row.id], row.is_public) for row in rows}


def plan_for_version(version_id: str) -> str:
    """The plan that a version belongs to."""
    return version_id.rpartition("@")[0]


def find_newest_version_id(session: Session, plan_code: str) -> str | None:
    """Id of the newest published version of a plan, if it has one."""
    newest_of = text("""SELECT id FROM plan_versions WHERE plan_code = :plan AND state = 'published'
      ORDER BY version DESC LIMIT 1""")
    found = session.scalar(newest_of, {"plan": plan_code})
    return str(found) if found else None


def get_plan_content(session: Session, version_id: str) -> PlanContent:
    """A plan as one of its versions says it."""
    version = get_versions(session, [version_id])[version_id]
    plan = session.execute(
        text("SELECT code, name, position, is_public FROM plans WHERE code = :code"),
        {"code": plan_for_version(version_id)},
    ).one()
    rows = session.execute(
        text("""SELECT feature, kind, value, meter_code, limit_quantity FROM entitlements
          WHERE plan_version_id = :id ORDER BY feature"""),
        {"id": version_id},
    )
    return PlanContent(
        plan.code,
        plan.name,
        version.currency,
        version.base_amount_minor,
        version.min_spend_minor,
        version.prices,
        {row.feature: _entitlement(row) for row in rows},
        plan.position,
        plan.is_public,
    )


def _entitlement(row: Any) -> EntitlementContent:
    if row.kind == "metered":
        return EntitlementContent("metered", {"meter": row.meter_code, "limit": f"{row.limit_quantity.normalize():f}"})
    return EntitlementContent(row.kind, row.value)


def active_meters(session: Session) -> dict[str, MeterContent]:
    """The meters that may be used, by code."""
    rows = session.execute(
        text("SELECT code, name, unit, reverse_on_failure FROM meters WHERE archived_at IS NULL ORDER BY code")
    )
    return {row.code: MeterContent(*row) for row in rows}


def list_versions(session: Session, at: datetime) -> list[PlanVersionRow]:
    """Every published version, in the catalogue's order, the newest of a plan first.

    returns: with how many organizations are on each; of all organizations only as the system
    """
    rows = session.execute(
        text("""SELECT p.code, v.id, v.published_at,
            v.version = max(v.version) OVER (PARTITION BY p.code) AS is_newest, p.archived_at IS NOT NULL,
            (SELECT count(*) FROM subscription_segments s WHERE s.plan_version_id = v.id AND s.starts_at <= :at
               AND (s.ends_at IS NULL OR s.ends_at > :at))
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state <> 'draft'
          ORDER BY p.position, p.code, v.version DESC"""),
        {"at": at},
    )
    return [PlanVersionRow(*row) for row in rows]


def resolve_rate_limit(value: Any) -> int:
    """Requests a minute: a number, or the setting that an entitlement names."""
    return int(setting(value["setting"]) if isinstance(value, Mapping) else value)


def list_offers(session: Session) -> list[PlanOffer]:
    """The plans that anybody may choose, in the catalogue's order."""
    rows = session.execute(
        text("""SELECT DISTINCT ON (p.position, p.code) p.code, p.name, v.id, e.value
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state = 'published'
          JOIN entitlements e ON e.plan_version_id = v.id AND e.feature = :feature
          WHERE p.is_public AND p.archived_at IS NULL ORDER BY p.position, p.code, v.version DESC"""),
        {"feature": RATE_LIMIT_FEATURE},
    ).all()
    found = get_versions(session, [row.id for row in rows])
    return [PlanOffer(row.code, row.name, found[row.id], resolve_rate_limit(row.value)) for row in rows]


def meter_units(session: Session) -> dict[str, str]:
    """Unit of every meter."""
    return dict(session.execute(text("SELECT code, unit FROM meters")).all())


DEFAULT_PLAN, DEFAULT_CURRENCY = "free", "USD"


class PlanNotFound(NotFound):
    """The catalogue has no such plan."""

    message = "There is no such plan."


class PlanRequired(Conflict):
    """New organizations, and those whose payment failed for good, are put on this plan."""

    code, message = "PLAN_NEEDED", "This plan cannot be retired: new organizations start on it."


PLANS_PRICED_BY_SETTING = ("free", "starter")
SETTING_METER = "sms"

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
_OUTDATED_PLANS = text("""
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


def sync_setting_price() -> list[str]:
    """Publish the next version of each small plan whose price is not BILLING_RATE_PER_REQUEST.

    New organizations get it at once, the others from their next period. A repeat changes nothing.
    returns: ids of the versions that were published
    """
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    published = []
    for plan in PLANS_PRICED_BY_SETTING:
        with tenancy.system_session("billing.catalogue") as session:
            session.execute(_LOCK)
            old = newest_version_id(session, plan)
            newest = old
            price = get_prices(session, [old])[old, SETTING_METER]
            if price.model == "per_unit" and price.unit_price != rate:
                newest = _publish_with_price(session, old, rate)
                published.append(newest)
            behind = session.execute(_OUTDATED_PLANS, {"plan": plan, "newest": newest, "at": clock.now()}).all()
            for row in behind:
                _switch_version(session, row.organization_id, {"newest": newest, "moves_at": row.moves_at})
    return published


def _publish_with_price(session: Session, old: str, rate: Decimal) -> str:
    new = str(session.execute(_DRAFT, {"old": old}).scalar_one())
    for statement in _COPIES:
        session.execute(statement, {"old": old, "new": new, "meter": SETTING_METER, "rate": rate})
    log.info("plan_published", version=new, rate=str(rate))
    return new


def _switch_version(session: Session, organization_id: UUID, values: dict[str, object]) -> None:
    named = {**values, "organization_id": organization_id}
    ended = session.execute(_END, named).first()
    if ended is not None:
        following = {"id": ids.new_id(), "subscription_id": ended.subscription_id, "seq": ended.seq + 1}
        session.execute(_FOLLOW, {**named, **following})
        organizations.bump_generation(session, organization_id)


@dataclass(frozen=True)
class PublishResult:
    """What a plan's file came to.

    version_id: the version it is now, or would be; None where the newest version says the same
    previous: the newest version before; None for a new plan
    """

    plan: str
    version_id: str | None
    previous: str | None
    differences: Sequence[PlanDifference]


def publish_plan(written: Any, actor: Actor, *, is_dry: bool = False) -> PublishResult:
    """Publish a plan's document as the plan's next version; a repeat publishes nothing.

    Nobody who is on the plan is moved. A name, position or visibility alone is set without a version.
    is_dry: only say what would differ
    raises: BadPlan with every problem
    """
    with tenancy.system_session("billing.catalogue") as session:
        session.execute(_LOCK)
        known = active_meters(session)
        wanted = plan_file.load_plan(written, known)
        previous = find_newest_version_id(session, wanted.code)
        old = get_plan_content(session, previous) if previous else None
        _check(session, wanted, old)
        new_meters = [meter for meter in wanted.meters if meter.code not in known]
        filled = _write_version(session, replace(wanted, meters=new_meters), old)
        found = plan_file.diff_documents(plan_file.to_document(old) if old else {}, plan_file.to_document(filled))
        version_id = _next(filled.code, previous) if not old or _differs(old, filled) else None
        if found and not is_dry:
            _write(session, filled, version_id)
            changes = {difference.path: [difference.before, difference.after] for difference in found}
            action = "plan.published" if version_id else "plan.changed"
            audit.record_event(session, None, actor, action, ("plan", version_id or filled.code), {"changes": changes})
            log.info("plan_published", version=version_id or previous, differences=len(found))
    return PublishResult(filled.code, version_id, previous, found)


def archive_plan(plan: str, actor: Actor, reason: str | None = None, *, is_undone: bool = False) -> bool:
    """Offer a plan no longer; whoever is on it stays, and may be put on it no more. A repeat changes nothing.

    reason: for the log of acts
    is_undone: offer it again
    returns: whether anything changed
    raises: NoSuchPlan; PlanNeeded for the one that new organizations start on
    """
    if plan == DEFAULT_PLAN:
        raise PlanRequired
    with tenancy.system_session("billing.catalogue") as session:
        session.execute(_LOCK)
        found = session.get(Plan, plan)
        if found is None:
            raise PlanNotFound
        if (found.archived_at is None) == is_undone:
            return False
        found.archived_at = None if is_undone else clock.now()
        action = "plan.offered_again" if is_undone else "plan.retired"
        audit.record_event(session, None, actor, action, ("plan", plan), {"reason": reason} if reason else None)
    return True


def _check(session: Session, wanted: PlanContent, old: PlanContent | None) -> None:
    """Refuse what the file alone does not show to be wrong."""
    problems = []
    if old and old.currency != wanted.currency:
        problems.append(("currency", f"plan {wanted.code} is in {old.currency}; another currency needs another plan"))
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    if wanted.code in PLANS_PRICED_BY_SETTING:
        price = wanted.prices[SETTING_METER]
        if price.model != "per_unit" or price.unit_price != rate:
            reason = f"follows BILLING_RATE_PER_REQUEST ({rate}) on this plan, per unit; change that setting"
            problems.append((f"prices.{SETTING_METER}", reason))
    archived = text("SELECT code FROM meters WHERE archived_at IS NOT NULL AND code = ANY (:codes)")
    retired = session.scalars(archived, {"codes": [meter.code for meter in wanted.meters]})
    problems += [("meters", f"meter {code} is retired") for code in retired]
    if problems:
        raise InvalidPlanFile(problems)


def _write_version(session: Session, wanted: PlanContent, old: PlanContent | None) -> PlanContent:
    """The plan with what its file leaves as it is."""
    last = session.scalar(text("SELECT coalesce(max(position), 0) + 1 FROM plans"))
    position = wanted.position or (old.position if old else last)
    is_public = wanted.is_public if wanted.is_public is not None else old is None or bool(old.is_public)
    return replace(wanted, position=position, is_public=is_public)


def _differs(old: PlanContent, new: PlanContent) -> bool:
    """Whether the versioned part differs: anything that charges or allows."""
    unversioned = {"name": "", "position": None, "is_public": None, "meters": ()}
    return plan_file.to_document(replace(old, **unversioned)) != plan_file.to_document(replace(new, **unversioned))  # type: ignore[arg-type]  # the fields differ in type


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
        status=PlanVersionStatus.DRAFT,
        currency=content.currency,
        base_amount_minor=content.base_amount_minor,
        min_spend_minor=content.min_spend_minor,
    )
    session.add(version)
    session.flush()  # prices and entitlements refer to it
    _add_prices(session, content, version_id)
    for feature, right in content.entitlements.items():
        entitlement = Entitlement(plan_version_id=version_id, feature=feature, kind=right.kind, value=right.value)
        if right.kind == "metered":
            entitlement.meter_code = right.value["meter"]
            entitlement.limit_quantity = Decimal(right.value["limit"])
        session.add(entitlement)
    session.flush()  # published, it takes no further row
    version.status, version.published_at = PlanVersionStatus.PUBLISHED, clock.now()


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
