"""Plans and their published versions: reads, publication of plan files, archiving."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.billing import catalogue_copies, plan_rows
from saas_api.billing.models import Plan, PlanVersionStatus
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice, PriceModel, Tier
from saas_api.billing.rating.plan_file import (
    RATE_LIMIT_FEATURE,
    EntitlementContent,
    EntitlementKind,
    PlanContent,
    PlanDifference,
)
from saas_api.core import clock, domain, money
from saas_api.core.db import row_copies, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.document_reader import InvalidDocument
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.money import DEFAULT_CURRENCY
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.usage import meters
from saas_api.usage.meter_file import MeterContent

log = get_logger(__name__)

DEFAULT_PLAN = "free"
PLANS_PRICED_BY_SETTING = ("free", "starter")
_VERSION_CACHE = "plan_versions"


@dataclass(frozen=True)
class SelectablePlan:
    """The newest published version of a plan that is not archived.

    is_public: members can choose the plan; otherwise only operators can
    """

    code: str
    version: RatedPlanVersion
    is_public: bool


@dataclass(frozen=True)
class PlanVersionRow:
    """A published version of a plan in a list.

    organizations: number of organizations on it
    """

    code: str
    version_id: str
    published_at: datetime
    is_newest: bool
    is_archived: bool
    organizations: int


@dataclass(frozen=True)
class OfferedPrice:
    """Price of a meter in an offer."""

    content: MeterContent
    price: MeterPrice

    @property
    def meter(self) -> str:
        """Code of the meter."""
        return self.content.code

    @property
    def unit(self) -> str:
        """Unit of the meter."""
        return self.content.unit

    @property
    def unit_price(self) -> Decimal | None:
        """Price of one unit, in major units; None unless the price is per unit."""
        return self.price.unit_price if self.price.model == PriceModel.PER_UNIT else None

    @property
    def by(self) -> "OfferedPrice | None":
        """The price itself if it differs by a dimension."""
        return self if self.price.dimension else None

    @property
    def values(self) -> "dict[str, OfferedPrice]":
        """Prices of values of the dimension, by value."""
        return {value: replace(self, price=price) for value, price in self.price.by.items()}

    @property
    def package(self) -> MeterPrice | None:
        """The price itself if packages are sold."""
        return self.price if self.price.model == PriceModel.PACKAGE else None


@dataclass(frozen=True)
class PlanOffer:
    """A public plan with its newest published version.

    rate_limit: requests a minute
    prices: by code of the meter
    """

    code: str
    name: str
    version: RatedPlanVersion
    rate_limit: int
    prices: Sequence[OfferedPrice]

    @property
    def currency(self) -> str:
        """Currency of every amount."""
        return self.version.currency


class PlanNotFound(NotFound):
    """There is no plan with this code."""

    message = "There is no such plan."


class PlanRequired(Conflict):
    """The plan cannot be archived: new organizations and those in write-off are moved to it."""

    code, message = "PLAN_NEEDED", "This plan cannot be retired: new organizations start on it."


@dataclass(frozen=True)
class PublishResult:
    """Result of publishing a plan file.

    version_id: the published version, in a dry run the next one; None if the newest version has the same content
    previous: the newest version before, in its currency; None for the first one
    default_version_id: version of the default plan that was published with it, because that had none in its currency
    """

    plan: str
    version_id: str | None
    previous: str | None
    differences: Sequence[PlanDifference]
    default_version_id: str | None = None


_VERSIONS = text("""SELECT v.id, p.name, v.currency, v.base_amount_minor, v.min_spend_minor, v.state,
    coalesce((SELECT jsonb_object_agg(code, name) FROM meters), '{}') AS meter_names
  FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)""")


def get_versions(session: Session, ids: Collection[str]) -> dict[str, RatedPlanVersion]:
    """Plan versions by id, with their prices. Published versions never change, so each session caches them."""
    cached: dict[str, RatedPlanVersion] = session.info.setdefault(_VERSION_CACHE, {})
    missing = set(ids) - cached.keys()
    drafts: dict[str, RatedPlanVersion] = {}
    if missing:
        prices = _prices_by_version(session, missing)
        for row in session.execute(_VERSIONS, {"ids": list(missing)}).mappings():
            attributes = {name: value for name, value in row.items() if name != "state"}
            group = drafts if row["state"] == PlanVersionStatus.DRAFT else cached
            group[row["id"]] = RatedPlanVersion(**attributes, prices=prices[row["id"]])
    versions = {**cached, **drafts}
    return {version_id: versions[version_id] for version_id in ids if version_id in versions}


def get_prices(session: Session, ids: Collection[str]) -> dict[tuple[str, str], MeterPrice]:
    """Prices by plan version and meter."""
    versions = get_versions(session, ids)
    return {
        (version_id, meter): price
        for version_id, version in versions.items()
        for meter, price in version.prices.items()
    }


_PRICES = text("""SELECT p.*, v.currency, (
    SELECT array_agg(ARRAY[t.up_to, t.unit_price, t.flat_minor] ORDER BY t.ordinal) FROM price_tiers t
     WHERE t.plan_version_id = p.plan_version_id AND t.meter_code = p.meter_code
       AND t.dimension_value = p.dimension_value) AS tiers
  FROM prices p JOIN plan_versions v ON v.id = p.plan_version_id
  WHERE p.plan_version_id = ANY (:ids) ORDER BY p.plan_version_id, p.meter_code, p.dimension_value DESC""")


def _prices_by_version(session: Session, ids: Collection[str]) -> defaultdict[str, dict[str, MeterPrice]]:
    prices: defaultdict[str, dict[str, MeterPrice]] = defaultdict(dict)
    by_value: defaultdict[tuple[str, str], dict[str, MeterPrice]] = defaultdict(dict)
    for row in session.execute(_PRICES, {"ids": list(ids)}):
        price, own = _price(row), by_value[row.plan_version_id, row.meter_code]
        if row.dimension_value:
            own[row.dimension_value] = price
        else:  # the last one of its meter
            by = dict(sorted(own.items()))
            prices[row.plan_version_id][row.meter_code] = replace(price, dimension=row.dimension, by=by)
    return prices


def _price(row: Any) -> MeterPrice:
    return MeterPrice(
        model=row.model,
        exponent=money.currency_exponent(row.currency),
        included_quantity=row.included_quantity,
        unit_price=row.unit_price or MeterPrice.unit_price,
        tiers=tuple(Tier(up_to, unit_price, int(flat)) for up_to, unit_price, flat in row.tiers or ()),
        package_size=row.package_size or MeterPrice.package_size,
        package_amount_minor=row.package_amount_minor or 0,
        max_amount_minor=row.max_amount_minor,
    )


def find_rate_meter(session: SystemSession) -> str | None:
    """Code of the meter whose price follows BILLING_RATE_PER_REQUEST on `PLANS_PRICED_BY_SETTING`."""
    code: str | None = session.scalar(text("SELECT code FROM meters WHERE follows_rate_setting"))
    return code


def version_currency(session: Session, version_id: str) -> str:
    """Currency of a plan version."""
    return str(session.scalar(text("SELECT currency FROM plan_versions WHERE id = :id"), {"id": version_id}))


_NEWEST_VERSION = text("""SELECT id FROM plan_versions
  WHERE plan_code = :plan AND currency = :currency AND state = 'published' ORDER BY version DESC LIMIT 1""")


def get_newest_version_id(session: Session, plan_code: str, currency: str = DEFAULT_CURRENCY) -> str:
    """Id of the newest published version of a plan that has one in a currency."""
    return str(session.execute(_NEWEST_VERSION, {"plan": plan_code, "currency": currency}).scalar_one())


def find_newest_version_id(session: Session, plan_code: str, currency: str | None) -> str | None:
    """Id of the newest published version of a plan in a currency; None without one."""
    version_id = session.scalar(_NEWEST_VERSION, {"plan": plan_code, "currency": currency})
    return str(version_id) if version_id else None


def find_currency(session: Session, plan_code: str) -> str | None:
    """Currency of a plan, of the default plan the default currency; None without a published version."""
    if plan_code == DEFAULT_PLAN:
        return DEFAULT_CURRENCY
    published = text("SELECT currency FROM plan_versions WHERE plan_code = :plan AND state = 'published' LIMIT 1")
    currency: str | None = session.scalar(published, {"plan": plan_code})
    return currency


def list_selectable_plans(
    session: Session, codes: Collection[str] | None = None, currency: str = DEFAULT_CURRENCY
) -> dict[str, SelectablePlan]:
    """The newest published versions by plan code, without archived plans.

    codes: of plans; None for all
    currency: of the default plan; every other plan has one currency
    """
    rows = session.execute(
        text("""SELECT DISTINCT ON (p.position, p.code) p.code, p.is_public, v.id
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state = 'published'
          WHERE p.archived_at IS NULL AND (CAST(:codes AS text[]) IS NULL OR p.code = ANY (:codes))
            AND (p.code <> :default OR v.currency = :currency)
          ORDER BY p.position, p.code, v.version DESC"""),
        {"codes": None if codes is None else list(codes), "default": DEFAULT_PLAN, "currency": currency},
    ).all()
    versions = get_versions(session, [row.id for row in rows])
    return {row.code: SelectablePlan(row.code, versions[row.id], row.is_public) for row in rows}


def plan_for_version(version_id: str) -> str:
    """Code of the plan of a version: "pro" of "pro@3"."""
    return version_id.rpartition("@")[0]


def get_plan_content(session: Session, version_id: str) -> PlanContent:
    """Content of a plan version, as a plan file has it."""
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
    kind, value = EntitlementKind(row.kind), row.value
    if kind == EntitlementKind.METERED:
        value = {"meter": row.meter_code, "limit": f"{row.limit_quantity.normalize():f}"}
    return EntitlementContent(kind, value)


def list_versions(session: SystemSession, at: datetime) -> list[PlanVersionRow]:
    """Every published version, by position of the plan, the newest first.

    at: time at which organizations are counted
    """
    rows = session.execute(
        text("""SELECT p.code, v.id, v.published_at,
            v.version = max(v.version) OVER (PARTITION BY p.code, v.currency) AS is_newest, p.archived_at IS NOT NULL,
            (SELECT count(*) FROM subscription_segments s WHERE s.plan_version_id = v.id AND s.starts_at <= :at
               AND (s.ends_at IS NULL OR s.ends_at > :at))
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state <> 'draft'
          ORDER BY p.position, p.code, v.version DESC"""),
        {"at": at},
    )
    return [PlanVersionRow(*row) for row in rows]


def resolve_rate_limit(value: Any) -> int:
    """Requests a minute of an entitlement: its number, or the value of the setting that it names."""
    return int(setting(value["setting"]) if isinstance(value, Mapping) else value)


def list_offers(session: Session, currency: str = DEFAULT_CURRENCY) -> list[PlanOffer]:
    """The public plans, by position.

    currency: of the default plan; every other plan has one currency
    """
    rows = session.execute(
        text("""SELECT DISTINCT ON (p.position, p.code) p.code, p.name, v.id, e.value
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state = 'published'
          JOIN entitlements e ON e.plan_version_id = v.id AND e.feature = :feature
          WHERE p.is_public AND p.archived_at IS NULL AND (p.code <> :default OR v.currency = :currency)
          ORDER BY p.position, p.code, v.version DESC"""),
        {"feature": RATE_LIMIT_FEATURE, "default": DEFAULT_PLAN, "currency": currency},
    ).all()
    versions, contents = get_versions(session, [row.id for row in rows]), meters.all_meters(session)
    return [
        PlanOffer(
            row.code,
            row.name,
            versions[row.id],
            resolve_rate_limit(row.value),
            [OfferedPrice(contents[meter], price) for meter, price in sorted(versions[row.id].prices.items())],
        )
        for row in rows
    ]


_LOCK_PLANS = text("SELECT pg_advisory_xact_lock(hashtextextended('billing.catalogue', 2))")


def catalogue_session() -> AbstractContextManager[SystemSession]:
    """A transaction of the catalogue of plans."""
    return tenancy.system_session("billing.catalogue")


def lock_plans(session: SystemSession) -> None:
    """Let one transaction at a time publish versions."""
    session.execute(_LOCK_PLANS)


def publish_plan(document: Any, actor: Actor, *, is_dry: bool = False) -> PublishResult:
    """Publish a plan file as the next version of its plan, in a transaction of its own. Idempotent.

    Organizations on the plan stay on their version. A change of name, position or visibility needs no version. The
    first plan in a currency brings a version of the default plan, because organizations of every currency need it.

    document: the parsed file
    is_dry: write nothing
    raises: InvalidDocument with every problem
    """
    with catalogue_session() as session:
        result = publish_in_session(session, document, actor, is_dry=is_dry)
    if not is_dry:
        finish_publication(result)
    return result


def finish_publication(result: PublishResult) -> None:
    """Log what was published and copy it to the other cells, after the transaction of `publish_in_session`."""
    if result.differences:
        log.info("plan_published", version=result.version_id or result.plan, differences=len(result.differences))
        row_copies.push(catalogue_copies.copy_catalogue)


def publish_in_session(
    session: SystemSession, document: Any, actor: Actor, *, is_dry: bool = False, reason: str | None = None
) -> PublishResult:
    """Publish a plan file in a transaction of the caller, who calls `finish_publication` after it; see `publish_plan`.

    reason: of an operator, for the audit log
    """
    lock_plans(session)
    meters.lock_meters(session)
    known_meters = meters.all_meters(session)  # archived ones too: plans that price them may change otherwise
    content = plan_file.load_plan(document, known_meters, _always_priced(session))
    previous = find_newest_version_id(session, content.code, content.currency)
    old = get_plan_content(session, previous) if previous else None
    _validate(session, content)
    new_meters = [meter for meter in content.meters if meter.code not in known_meters]
    content = _fill_defaults(session, replace(content, meters=new_meters))
    differences = plan_file.diff_documents(plan_file.to_document(old) if old else {}, plan_file.to_document(content))
    version_id = _next_version_id(session, content.code) if not old or _needs_version(old, content) else None
    default = _missing_default_plan(session, content)
    default_id = _next_version_id(session, DEFAULT_PLAN) if default else None
    if differences and not is_dry:
        _publish(session, content, version_id, actor, differences, reason)
    if default and not is_dry:
        _publish_default(session, default, actor)
    return PublishResult(content.code, version_id, previous, differences, default_id)


def _always_priced(session: SystemSession) -> list[str]:
    """Codes of the meters of services in this application; a plan that forgot one would give the service away."""
    active = meters.active_meters(session)
    return [code for code, meter in active.items() if meter.service in domain.registry.services]


def _publish(
    session: SystemSession,
    content: PlanContent,
    version_id: str | None,
    actor: Actor,
    differences: Sequence[PlanDifference],
    reason: str | None = None,
) -> None:
    plan_rows.write_plan(session, content, version_id)
    changes = {difference.path: [difference.before, difference.after] for difference in differences}
    action = "plan.published" if version_id else "plan.changed"
    data: dict[str, Any] = {"changes": changes, **({"reason": reason} if reason else {})}
    audit.record_event(session, None, actor, action, ("plan", version_id or content.code), data)


def _missing_default_plan(session: SystemSession, content: PlanContent) -> PlanContent | None:
    """The default plan in the currency of a plan, if it has no version in it.

    It includes what it includes in the default currency; further units cost what they cost on the plan.
    """
    if content.code == DEFAULT_PLAN or find_newest_version_id(session, DEFAULT_PLAN, content.currency):
        return None
    default = get_plan_content(session, get_newest_version_id(session, DEFAULT_PLAN))
    prices = {
        meter: _with_included(content.prices[meter], price)
        for meter, price in default.prices.items()
        if meter in content.prices
    }
    return replace(default, currency=content.currency, base_amount_minor=0, min_spend_minor=0, prices=prices)


def _with_included(price: MeterPrice, default: MeterPrice) -> MeterPrice:
    """A price with the included quantities of the default plan, which also says the values that have their own."""
    by = price.by if price.dimension == default.dimension else {}
    own = {
        value: replace(by.get(value, price), included_quantity=one.included_quantity, dimension=None, by={})
        for value, one in default.by.items()
    }
    return replace(price, included_quantity=default.included_quantity, dimension=default.dimension, by=own)


_CURRENCIES_WITHOUT_DEFAULT_PLAN = text("""
SELECT DISTINCT ON (v.currency) v.id FROM plan_versions v JOIN plans p ON p.code = v.plan_code
WHERE v.state = 'published' AND NOT EXISTS (
  SELECT FROM plan_versions d WHERE d.plan_code = :default AND d.currency = v.currency AND d.state = 'published')
ORDER BY v.currency, p.position, p.code, v.version DESC""")


def publish_missing_defaults(actor: Actor) -> list[str]:
    """Publish the default plan in every currency in which only other plans are. Idempotent; a transaction of its own.

    returns: ids of the published versions
    """
    published = []
    with catalogue_session() as session:
        lock_plans(session)
        for version_id in session.scalars(_CURRENCIES_WITHOUT_DEFAULT_PLAN, {"default": DEFAULT_PLAN}).all():
            default = _missing_default_plan(session, get_plan_content(session, version_id))
            if default:
                published.append(_publish_default(session, default, actor))
    return published


def _publish_default(session: SystemSession, content: PlanContent, actor: Actor) -> str:
    version_id = _next_version_id(session, DEFAULT_PLAN)
    _publish(session, content, version_id, actor, plan_file.diff_documents({}, plan_file.to_document(content)))
    return version_id


def archive_plan(plan_code: str, actor: Actor, reason: str, *, is_undone: bool = False) -> bool:
    """Archive a plan, in a transaction of its own. Organizations stay on it, others cannot be moved to it. Idempotent.

    reason: for the audit log
    is_undone: offer the plan again
    returns: whether the plan changed
    raises: PlanNotFound; PlanRequired for the default plan
    """
    if plan_code == DEFAULT_PLAN:
        raise PlanRequired
    with catalogue_session() as session:
        lock_plans(session)
        plan = session.get(Plan, plan_code)
        if plan is None:
            raise PlanNotFound
        if (plan.archived_at is None) == is_undone:
            return False
        plan.archived_at = None if is_undone else clock.now()
        action = "plan.offered_again" if is_undone else "plan.retired"
        audit.record_event(session, None, actor, action, ("plan", plan_code), {"reason": reason})
    return True


def _validate(session: SystemSession, content: PlanContent) -> None:
    """Check what needs the database; the reader of the plan file has checked the rest."""
    problems = []
    currency = find_currency(session, content.code)
    if content.code != DEFAULT_PLAN and currency not in (None, content.currency):
        problems.append(("currency", f"plan {content.code} is in {currency}; another currency needs another plan"))
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    if content.code in PLANS_PRICED_BY_SETTING and content.currency == DEFAULT_CURRENCY:
        meter = find_rate_meter(session)
        price = content.prices.get(meter or "")
        if price and (price.model != PriceModel.PER_UNIT or price.unit_price != rate):
            reason = f"follows BILLING_RATE_PER_REQUEST ({rate}) on this plan, per unit; change that setting"
            problems.append((f"prices.{meter}", reason))
    archived = text("SELECT code FROM meters WHERE archived_at IS NOT NULL AND code = ANY (:codes)")
    archived_codes = session.scalars(archived, {"codes": [meter.code for meter in content.meters]})
    problems += [("meters", f"meter {code} is archived") for code in archived_codes]
    if problems:
        raise InvalidDocument(problems)


def _fill_defaults(session: SystemSession, content: PlanContent) -> PlanContent:
    """Position and visibility are optional in the file: they stay, and a new plan is public and last."""
    last = session.scalar(text("SELECT coalesce(max(position), 0) + 1 FROM plans"))
    plan = session.get(Plan, content.code)
    position = content.position or (plan.position if plan else last)
    is_public = content.is_public if content.is_public is not None else plan is None or plan.is_public
    return replace(content, position=position, is_public=is_public)


def _needs_version(old: PlanContent, new: PlanContent) -> bool:
    """Whether prices or entitlements differ."""
    unversioned = {"name": "", "position": None, "is_public": None, "meters": ()}
    return plan_file.to_document(replace(old, **unversioned)) != plan_file.to_document(replace(new, **unversioned))  # type: ignore[arg-type]  # the fields differ in type


def _next_version_id(session: SystemSession, code: str) -> str:
    last = session.scalar(text("SELECT max(version) FROM plan_versions WHERE plan_code = :plan"), {"plan": code})
    return f"{code}@{(last or 0) + 1}"
