"""Reads what the bills of several organizations depend on; gives what `bill_inputs` gives for each of them."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import select

from saas_api.billing import bill_inputs, pauses
from saas_api.billing.models import BillingPeriod, SubscriptionSegment
from saas_api.billing.rating.bill import BillInputs, UsageQuantity
from saas_api.core.db.tenancy import SystemSession
from saas_api.usage import quantities


def get_inputs(session: SystemSession, periods: Sequence[BillingPeriod]) -> dict[UUID, BillInputs]:
    """Inputs of the bills of closed periods, by organization, from the ledger.

    Only organizations with late usage, or with meters that do not add up, take statements of their own.

    periods: at most one of each organization
    """
    organization_ids = [period.organization_id for period in periods]
    keys = [(period.organization_id, period.id) for period in periods]
    chains = _list_chains(session, organization_ids)
    paused = pauses.list_pauses_in_batch(session, organization_ids)
    quantities_by_period = quantities.period_quantities_in_batch(session, keys)
    paying_late_usage = quantities.list_paying_late_usage(session, keys)
    parts = []
    for period in periods:
        owner = period.organization_id
        segments = bill_inputs.prorate_segments(period, period.ends_at, chains[owner], paused[owner])
        used = tuple(
            UsageQuantity(row.version_id, row.meter, row.quantity, row.dimension_value, row.aggregation)
            for row in quantities_by_period[period.id]
        )
        late = bill_inputs.list_late_usage(session, owner, period.id) if period.id in paying_late_usage else ()
        parts.append((period, segments, used, late))
    versions = bill_inputs.get_versions(
        session,
        [segment for _, segments, _, _ in parts for segment in segments],
        [quantity for _, _, used, _ in parts for quantity in used],
        [usage for _, _, _, late in parts for usage in late],
    )
    return {
        period.organization_id: BillInputs(
            period.starts_at, period.ends_at, period.nominal_seconds, versions, segments, used, late
        )
        for period, segments, used, late in parts
    }


def _list_chains(
    session: SystemSession, organization_ids: Collection[UUID]
) -> defaultdict[UUID, list[SubscriptionSegment]]:
    chains: defaultdict[UUID, list[SubscriptionSegment]] = defaultdict(list)
    statement = select(SubscriptionSegment).where(SubscriptionSegment.organization_id.in_(organization_ids))
    for segment in session.scalars(statement.order_by(SubscriptionSegment.organization_id, SubscriptionSegment.seq)):
        chains[segment.organization_id].append(segment)
    return chains
