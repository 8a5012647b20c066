"""Counters of the gate: what one request adds to a meter or to the spend of a period."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from saas_api.core.access import KeyMode, Principal
from saas_api.core.db import tenancy
from saas_api.usage import rollups

MAX_COUNTER_VALUE = 2**53
"""No counter exceeds it: the largest whole number that a Lua script in Redis counts exactly."""


@dataclass(frozen=True)
class MeterQuota:
    """One counter of the gate.

    name: the meter, or the name of a spend counter
    units: what this request adds
    limit: the most that the counter may reach, -1 for none
    last_value: the value according to PostgreSQL; Redis starts from it when it has none
    lower_bound, upper_bound: inclusive range of the value in Redis for which `units` was computed
    """

    name: str
    units: int
    limit: int
    last_value: int
    lower_bound: int = -MAX_COUNTER_VALUE
    upper_bound: int = MAX_COUNTER_VALUE


def quota_counters(
    principal: Principal,
    units: Mapping[str, int],
    *,
    is_fresh: bool,
    period_id: UUID,
    limits: Mapping[str, Decimal],
) -> list[MeterQuota]:
    """Counters of the meters that have a quota; none in test mode.

    units: what this request adds, by meter
    is_fresh: read the usage of the period from PostgreSQL; otherwise `last_value` is 0, because Redis has the counter
    limits: quotas of the plan and its overrides, by meter, in the meter's unit
    """
    if principal.mode != KeyMode.LIVE or not limits:
        return []
    usage: Mapping[str, Decimal] = {}
    if is_fresh:
        with tenancy.tenant_session(principal.organization_id) as session:
            usage = rollups.live_quantities(session, principal.organization_id, period_id)
    return [
        MeterQuota(meter, units.get(meter, 0), int(limit), int(usage.get(meter, 0)))
        for meter, limit in sorted(limits.items())
    ]
