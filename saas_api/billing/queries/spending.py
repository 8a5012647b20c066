"""What a running period has cost so far, exactly; read from rollups and the tail of the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.rules import rating
from saas_api.billing.rules.bill import Late, PeriodInputs, Used, Version, invoice_draft
from saas_api.billing.rules.plans.changes import stretches
from saas_api.core.money import DIGITS
from saas_api.usage.queries import ledger
from saas_api.usage.queries.live import LIVE

_LIVE = text(f"""WITH live AS ({LIVE})
  SELECT meter_code AS meter, sum(quantity) AS quantity, bool_or(is_late) AS is_late
  FROM live WHERE billing_period_id = :period_id GROUP BY 1 ORDER BY 1""")


@dataclass(frozen=True)
class Spent:
    """What a period has cost so far.

    version: the plan version in force at the period's end
    base_minor: of the whole period
    charge: of all usage, in minor units, unrounded
    quantities: by plan version and meter
    metered: by meter, everything the period pays for
    """

    version: Version
    base_minor: int
    charge: Decimal
    quantities: Mapping[tuple[str, str], Decimal]
    metered: Mapping[str, Decimal]

    @property
    def total(self) -> Decimal:
        """Base and charge, in minor units."""
        with localcontext(prec=DIGITS):
            return self.base_minor + self.charge


def base_minor(session: Session, organization_id: UUID, period_id: UUID) -> int:
    """The base amounts of a whole period, in minor units."""
    return _base_minor(_without_usage(session, organization_id, period_id))


def spent(session: Session, organization_id: UUID, period_id: UUID) -> Spent:
    """What a period has cost up to now.

    A period with several plan versions, or with late usage, is read from the ledger.
    """
    inputs = _without_usage(session, organization_id, period_id)
    values = {"organization_id": organization_id, "period_id": period_id}
    rows = session.execute(_LIVE, values).all()
    used: tuple[Used, ...]
    late: tuple[Late, ...] = ()
    if len(inputs.stretches) == 1 and not any(row.is_late for row in rows):
        used = tuple(Used(inputs.stretches[0].version_id, row.meter, row.quantity) for row in rows)
    else:
        used = tuple(Used(**row) for row in ledger.quantities(session, organization_id, period_id))
        late = tuple(Late(**row) for row in ledger.late_quantities(session, organization_id, period_id))
    versions = catalogue.versions(
        session, {part.version_id for group in (inputs.stretches, used, late) for part in group}
    )
    return Spent(
        versions[inputs.stretches[-1].version_id],
        _base_minor(inputs),
        charge(versions, used, late),
        {(part.version_id, part.meter): part.quantity for part in used},
        {row.meter: row.quantity for row in rows},
    )


def charge(versions: Mapping[str, Version], used: tuple[Used, ...], late: tuple[Late, ...]) -> Decimal:
    """What all usage costs, in minor units, unrounded."""
    total = Decimal(0)
    with localcontext(prec=DIGITS):
        for part in used:
            price = versions[part.version_id].prices.get(part.meter)
            total += rating.charge_exact(price, part.quantity) if price else 0
        for part_late in late:
            price = versions[part_late.version_id].prices.get(part_late.meter)
            total += rating.late_charge(price, part_late.billed, part_late.quantity) if price else 0
    return total


def _base_minor(inputs: PeriodInputs) -> int:
    return sum(line.amount_minor for line in invoice_draft(inputs).lines if line.kind == "base")


def _without_usage(session: Session, organization_id: UUID, period_id: UUID) -> PeriodInputs:
    wanted = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    period = session.scalars(wanted.where(BillingPeriod.id == period_id)).one()
    parts = stretches(plans.stages(session, organization_id), period.starts_at, period.ends_at)
    versions = catalogue.versions(session, {part.version_id for part in parts})
    return PeriodInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts)
