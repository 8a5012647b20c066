"""Quota counters of the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.usage import rollups
from saas_api.usage.ranges import FAR_FUTURE


@dataclass(frozen=True)
class MeterQuota:
    """One of the gate's counters.

    name: the meter
    units: what this request adds
    ceiling: most units a period may hold, -1 for no ceiling
    known: units used so far, as far as this process knows
    low, high: what may have been used before, inclusive, for the question to be right
    """

    name: str
    units: int
    ceiling: int
    last_value: int
    lower_bound: int = -FAR_FUTURE
    upper_bound: int = FAR_FUTURE


def quota_counters(
    principal: Principal,
    units: Mapping[str, int],
    *,
    is_fresh: bool,
    period_id: UUID,
    ceilings: Mapping[str, Decimal],
) -> list[MeterQuota]:
    """The gate's counters of meters that have a ceiling; none in test mode.

    units: what this request adds, by meter
    is_fresh: read what is used from PostgreSQL; otherwise 0, for Redis knows better
    ceilings: of the plan and its overrides, by meter, in the meter's unit
    """
    if principal.mode != "live" or not ceilings:
        return []
    known: Mapping[str, Decimal] = {}
    if is_fresh:
        with tenancy.tenant_session(principal.organization_id) as session:
            known = rollups.live_quantities(session, principal.organization_id, period_id)
    return [
        MeterQuota(meter, units.get(meter, 0), int(ceiling), int(known.get(meter, 0)))
        for meter, ceiling in sorted(ceilings.items())
    ]
