"""Open holds of an organization, as far as limits count them; `metering` writes them."""

from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.usage import quantities


class HeldQuantity(NamedTuple):
    """Sum of open holds of one meter, in its unit.

    dimension_value: as of `PeriodQuantity`
    """

    meter: str
    dimension_value: str
    quantity: Decimal


_OPEN_HOLDS = text(f"""SELECT h.meter_code, coalesce(d.dimension_value, ''), sum(h.quantity)
FROM holds h JOIN meters m ON m.code = h.meter_code AND m.aggregation IN ('sum', 'count')
{quantities.price_join("CAST(:version_id AS text)", "h.meter_code", "h.properties")}
WHERE h.organization_id = :organization_id AND h.ended_at IS NULL AND h.mode = 'live'
GROUP BY 1, 2 ORDER BY 1, 2""")


def list_held_quantities(session: Session, organization_id: UUID, version_id: str | None = None) -> list[HeldQuantity]:
    """Open holds by meter and value of the dimension, without meters that do not add up.

    version_id: plan version whose prices divide the dimensions; None adds all values up
    """
    values = {"organization_id": organization_id, "version_id": version_id}
    return [HeldQuantity(*row) for row in session.execute(_OPEN_HOLDS, values)]
