"""The catalogue: plans, their published versions, and what those charge."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.rules.bill import Version
from saas_api.billing.rules.plans.catalogue import RATE_LIMIT, MeterShape, PlanContent, Right
from saas_api.billing.rules.rating import Price, Tier
from saas_api.core.money import exponent
from saas_api.core.settings import setting

__all__ = ["RATE_LIMIT"]


@dataclass(frozen=True)
class Choice:
    """The newest published version of a plan.

    is_open: whether anybody may choose the plan, or only an operator for them
    """

    code: str
    version: Version
    is_open: bool


@dataclass(frozen=True)
class Listed:
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
    version: Version
    rate_limit: int


def versions(session: Session, ids: Collection[str]) -> dict[str, Version]:
    """Plan versions by id, with their prices; a published one never changes, so a session reads it once."""
    known: dict[str, Version] = session.info.setdefault(_KNOWN, {})
    missing = set(ids) - known.keys()
    drafts: dict[str, Version] = {}
    if missing:
        charged = _prices(session, missing)
        rows = session.execute(_VERSIONS, {"ids": list(missing)}).mappings().all()
        for row in rows:
            shape = {name: value for name, value in row.items() if name != "state"}
            kept = drafts if row["state"] == "draft" else known
            kept[row["id"]] = Version(**shape, prices=charged[row["id"]])
    found = {**known, **drafts}
    return {version_id: found[version_id] for version_id in ids if version_id in found}


def prices(session: Session, ids: Collection[str]) -> dict[tuple[str, str], Price]:
    """Prices by plan version and meter."""
    found = versions(session, ids)
    return {
        (version_id, meter): price for version_id, version in found.items() for meter, price in version.prices.items()
    }


_KNOWN = "plan_versions"
_VERSIONS = text("""SELECT v.id, p.name, v.currency, v.base_amount_minor, v.min_spend_minor, v.state
  FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)""")
_PRICES = text("""SELECT p.*, v.currency, (
    SELECT array_agg(ARRAY[t.up_to, t.unit_price, t.flat_minor] ORDER BY t.ordinal) FROM price_tiers t
     WHERE t.plan_version_id = p.plan_version_id AND t.meter_code = p.meter_code) AS tiers
  FROM prices p JOIN plan_versions v ON v.id = p.plan_version_id
  WHERE p.plan_version_id = ANY (:ids) ORDER BY p.plan_version_id, p.meter_code""")


def _prices(session: Session, ids: Collection[str]) -> defaultdict[str, dict[str, Price]]:
    charged: defaultdict[str, dict[str, Price]] = defaultdict(dict)
    for row in session.execute(_PRICES, {"ids": list(ids)}):
        charged[row.plan_version_id][row.meter_code] = Price(
            model=row.model,
            exponent=exponent(row.currency),
            included_quantity=row.included_quantity,
            unit_price=row.unit_price or Price.unit_price,
            tiers=tuple(Tier(up_to, each, int(flat)) for up_to, each, flat in row.tiers or ()),
            package_size=row.package_size or Price.package_size,
            package_amount_minor=row.package_amount_minor or 0,
            max_amount_minor=row.max_amount_minor,
        )
    return charged


def currency(session: Session, version_id: str) -> str:
    """Currency of a plan version."""
    return str(session.scalar(text("SELECT currency FROM plan_versions WHERE id = :id"), {"id": version_id}))


def newest(session: Session, plan_code: str) -> str:
    """Id of the newest published version of a plan."""
    newest_of = text("""SELECT id FROM plan_versions WHERE plan_code = :plan AND state = 'published'
      ORDER BY version DESC LIMIT 1""")
    return str(session.execute(newest_of, {"plan": plan_code}).scalar_one())


def choices(session: Session, codes: Collection[str] | None = None) -> dict[str, Choice]:
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
    found = versions(session, [row.id for row in rows])
    return {row.code: Choice(row.code, found[row.id], row.is_public) for row in rows}


def plan_of(version_id: str) -> str:
    """The plan that a version belongs to."""
    return version_id.rpartition("@")[0]


def find_newest(session: Session, plan_code: str) -> str | None:
    """Id of the newest published version of a plan, if it has one."""
    newest_of = text("""SELECT id FROM plan_versions WHERE plan_code = :plan AND state = 'published'
      ORDER BY version DESC LIMIT 1""")
    found = session.scalar(newest_of, {"plan": plan_code})
    return str(found) if found else None


def content(session: Session, version_id: str) -> PlanContent:
    """A plan as one of its versions says it."""
    version = versions(session, [version_id])[version_id]
    plan = session.execute(
        text("SELECT code, name, position, is_public FROM plans WHERE code = :code"), {"code": plan_of(version_id)}
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
        {row.feature: _right(row) for row in rows},
        plan.position,
        plan.is_public,
    )


def _right(row: Any) -> Right:
    if row.kind == "metered":
        return Right("metered", {"meter": row.meter_code, "limit": f"{row.limit_quantity.normalize():f}"})
    return Right(row.kind, row.value)


def meters(session: Session) -> dict[str, MeterShape]:
    """The meters that may be used, by code."""
    rows = session.execute(
        text("SELECT code, name, unit, reverse_on_failure FROM meters WHERE archived_at IS NULL ORDER BY code")
    )
    return {row.code: MeterShape(*row) for row in rows}


def listing(session: Session, at: datetime) -> list[Listed]:
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
    return [Listed(*row) for row in rows]


def rate_limit(value: Any) -> int:
    """Requests a minute: a number, or the setting that an entitlement names."""
    return int(setting(value["setting"]) if isinstance(value, Mapping) else value)


def offers(session: Session) -> list[PlanOffer]:
    """The plans that anybody may choose, in the catalogue's order."""
    rows = session.execute(
        text("""SELECT DISTINCT ON (p.position, p.code) p.code, p.name, v.id, e.value
          FROM plans p JOIN plan_versions v ON v.plan_code = p.code AND v.state = 'published'
          JOIN entitlements e ON e.plan_version_id = v.id AND e.feature = :feature
          WHERE p.is_public AND p.archived_at IS NULL ORDER BY p.position, p.code, v.version DESC"""),
        {"feature": RATE_LIMIT},
    ).all()
    found = versions(session, [row.id for row in rows])
    return [PlanOffer(row.code, row.name, found[row.id], rate_limit(row.value)) for row in rows]


def units(session: Session) -> dict[str, str]:
    """Unit of every meter."""
    return dict(session.execute(text("SELECT code, unit FROM meters")).all())
