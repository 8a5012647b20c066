"""The bill of the running period as closing it at this moment would write it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.queries.inputs import find_earliest_open, find_running, period_inputs
from saas_api.billing.rules.bill import Draft, invoice_draft
from saas_api.billing.service.periods import ensure_account, ensure_period
from saas_api.core import clock
from saas_api.core.errors import Unavailable
from saas_api.usage.queries import ledger


class NoRunningPeriod(Unavailable):
    """There is no open period, and none could be opened."""


@dataclass(frozen=True)
class Preview:
    """A bill that is not written.

    forecast: the same usage with the base to the period's end
    """

    starts_at: datetime
    ends_at: datetime
    timezone: str
    total_requests: int
    draft: Draft
    forecast: Draft


def preview(session: Session, organization_id: UUID) -> Preview:
    """What closing the running period now would charge.

    raises: NoSuchOrganization; NoRunningPeriod
    """
    now = clock.now()
    ensure_account(session, organization_id)
    ensure_period(session, organization_id, now)
    period = find_running(session, organization_id, now) or find_earliest_open(session, organization_id)
    if period is None:
        raise NoRunningPeriod
    now = max(now, period.starts_at)
    return Preview(
        period.starts_at,
        period.ends_at,
        period.timezone,
        ledger.request_count(session, organization_id, period.id),
        invoice_draft(period_inputs(session, period, now)),
        invoice_draft(period_inputs(session, period, period.ends_at)),
    )
