"""Plans beside each other, each with what lately used quantities would cost on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.rules.bill import Version, invoice_draft
from saas_api.core import clock
from saas_api.dashboard.queries.prices import MONTH, described, offered
from saas_api.usage.queries.live import LIVE
from saas_api.usage.rules import Days

_LATELY = text(f"""WITH live AS ({LIVE})
  SELECT meter_code, sum(quantity) FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
  GROUP BY 1 ORDER BY 1""")


@dataclass(frozen=True)
class Compared:
    """A plan beside others.

    lines: its prices in words
    rate_limit: calls a minute; None for a plan that is not on offer
    month_minor: a whole month with the quantities that were used lately
    """

    code: str
    version: Version
    lines: Sequence[str]
    rate_limit: int | None
    month_minor: int


def lately(session: Session, organization_id: UUID, days: Days) -> dict[str, Decimal]:
    """What was used in a range of days, by meter."""
    values = {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at}
    return dict(session.execute(_LATELY, values).all())


def compared(session: Session, current: str, quantities: Mapping[str, Decimal]) -> list[Compared]:
    """The plans that anybody may choose, and the one in force if it is none of them.

    current: plan version in force
    quantities: by meter, of a month
    """
    found = [
        Compared(
            one.offer.code, one.offer.version, one.lines, one.offer.rate_limit, _month(one.offer.version, quantities)
        )
        for one in offered(session)
    ]
    code = catalogue.plan_of(current)
    if all(one.code != code for one in found):
        units = catalogue.units(session)
        version = catalogue.versions(session, [current])[current]
        lines = [
            line
            for meter, price in sorted(version.prices.items(), reverse=True)
            for line in described(meter, units[meter], price, version.currency)
        ]
        found.insert(0, Compared(code, version, lines, None, _month(version, quantities)))
    return found


def plan_names(session: Session, version_ids: Sequence[str]) -> dict[str, str]:
    """Names of the plans that versions belong to, by version."""
    rows = session.execute(
        text("SELECT v.id, p.name FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)"),
        {"ids": list(version_ids)},
    )
    return dict(rows.all())


def _month(version: Version, quantities: Mapping[str, Decimal]) -> int:
    """A whole month on one version, as `simulate` prices given quantities."""
    start = clock.now()
    month = BillingPeriod(starts_at=start, ends_at=start + MONTH, nominal_seconds=int(MONTH.total_seconds()))
    return invoice_draft(plans.inputs_on(month, version, quantities)).total_minor
