"""The gate's counters set right by what PostgreSQL says: after a call that never came about, or a late reversal.

Redis is read before and after PostgreSQL. Every call is counted before its row is written, so a truth above what is
counted afterwards is missing there, and is added. A count above a truth that was read later may be a call in flight;
the smaller of two such excesses in a row is taken away.
"""

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.queries import spending
from saas_api.billing.queries.spending import Spent
from saas_api.billing.service.spend.spending import SPEND, millionths, quantity_name, scaled
from saas_api.core.counters import correct, counted, counter_key, swap_excess
from saas_api.core.limits import Away
from saas_api.core.observe import get_logger

log = get_logger(__name__)


def reconcile(session: Session, organization_id: UUID, period_id: UUID, known: Spent) -> None:
    """Correct the counters of a period: quotas of meters, quantities and money; without Redis nothing is corrected.

    known: what was read of the period just now, to see whether anything is to be done
    """
    names = sorted(_truth(known))
    keys = [counter_key(organization_id, period_id, name) for name in names]
    try:
        before = counted(keys)
        if all(value in (None, _truth(known)[name]) for name, value in zip(names, before, strict=True)):
            return
        truth = _truth(spending.spent(session, organization_id, period_id))
        for name, key, first, last in zip(names, keys, before, counted(keys), strict=True):
            if first is not None and last is not None:
                _correct(key, first, truth.get(name, 0), last)
    except Away:
        log.warning("counters_uncorrected", organization_id=str(organization_id))


def _correct(key: str, before: int, truth: int, after: int) -> None:
    if truth > after:
        correct(key, truth - after)
        return
    excess = max(0, before - truth)
    lasting = min(excess, swap_excess(key, excess))
    if lasting:
        correct(key, -lasting)
        swap_excess(key, 0)


def _truth(spent: Spent) -> Mapping[str, int]:
    used = {meter: int(quantity) for meter, quantity in spent.metered.items()}
    used |= {quantity_name(spent.version.id, meter): 0 for meter in spent.version.prices}
    for (version_id, meter), quantity in spent.quantities.items():
        used[quantity_name(version_id, meter)] = scaled(max(quantity, Decimal(0)))
    used[SPEND] = max(0, millionths(spent.charge, spent.version.currency))
    return used
