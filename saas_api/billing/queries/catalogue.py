"""The catalogue: plans, their published versions, and what those charge."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.rules.bill import Version
from saas_api.billing.rules.rating import Price, Tier
from saas_api.core.money import exponent
from saas_api.core.settings import setting

RATE_LIMIT = "rate_limit_per_minute"


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
    """Plan versions by id, with their prices."""
    rows = session.execute(
        text("""SELECT v.id, p.name, v.currency, v.base_amount_minor, v.min_spend_minor
          FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)"""),
        {"ids": list(ids)},
    ).mappings()
    charged: defaultdict[str, dict[str, Price]] = defaultdict(dict)
    for (version_id, meter), price in prices(session, ids).items():
        charged[version_id][meter] = price
    return {row["id"]: Version(**row, prices=charged[row["id"]]) for row in rows}


def prices(session: Session, ids: Collection[str]) -> dict[tuple[str, str], Price]:
    """Prices by plan version and meter."""
    values = {"ids": list(ids)}
    tiers: defaultdict[tuple[str, str], list[Tier]] = defaultdict(list)
    for row in session.execute(
        text("""SELECT plan_version_id, meter_code, up_to, unit_price, flat_minor FROM price_tiers
          WHERE plan_version_id = ANY (:ids) ORDER BY plan_version_id, meter_code, ordinal"""),
        values,
    ):
        tiers[row.plan_version_id, row.meter_code].append(Tier(row.up_to, row.unit_price, row.flat_minor))
    rows = session.execute(
        text("""SELECT p.*, v.currency FROM prices p JOIN plan_versions v ON v.id = p.plan_version_id
          WHERE p.plan_version_id = ANY (:ids) ORDER BY p.plan_version_id, p.meter_code"""),
        values,
    )
    return {
        (row.plan_version_id, row.meter_code): Price(
            model=row.model,
            exponent=exponent(row.currency),
            included_quantity=row.included_quantity,
            unit_price=row.unit_price or Price.unit_price,
            tiers=tuple(tiers[row.plan_version_id, row.meter_code]),
            package_size=row.package_size or Price.package_size,
            package_amount_minor=row.package_amount_minor or 0,
            max_amount_minor=row.max_amount_minor,
        )
        for row in rows
    }


def currency(session: Session, version_id: str) -> str:
    """Currency of a plan version."""
    return str(session.scalar(text("SELECT currency FROM plan_versions WHERE id = :id"), {"id": version_id}))


def newest(session: Session, plan_code: str) -> str:
    """Id of the newest published version of a plan."""
    newest_of = text("""SELECT id FROM plan_versions WHERE plan_code = :plan AND state = 'published'
      ORDER BY version DESC LIMIT 1""")
    return str(session.execute(newest_of, {"plan": plan_code}).scalar_one())


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
