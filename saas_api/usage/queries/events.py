"""The events behind a line of an invoice, as they stand in the ledger.

The period that pays for them is closed, so what is read in several transactions is of one piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from saas_api.usage.queries.ledger import IN_FORCE

_OF_A_LINE = f"""FROM usage_events e {IN_FORCE}
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.meter_code = :meter
  AND e.late_for_period_id IS NOT DISTINCT FROM CAST(:late_for_period_id AS uuid) AND s.plan_version_id = :version_id"""
_COUNT = text(f"""SELECT count(*) FILTER (WHERE e.reversal_of IS NULL), count(e.reversal_of),
  coalesce(sum(e.quantity), 0), min(e.occurred_at), max(e.occurred_at) {_OF_A_LINE}""")
# In the order of the ledger's index, so that a page costs no sorting of all of them.
_PAGE = text(f"""SELECT e.id, e.recorded_xid, e.occurred_at, e.recorded_at, e.meter_code, e.quantity, e.source,
  e.idempotency_key, e.api_key_id, e.message_id, e.reversal_of {_OF_A_LINE}
  AND e.recorded_xid >= :xid AND (e.recorded_xid, e.id) > (:xid, CAST(:id AS uuid))
ORDER BY e.recorded_xid, e.id LIMIT :limit""")


@dataclass(frozen=True)
class Slice:
    """The events of a line: one meter under one plan version, paid for by one period.

    late_for_period_id: the closed period in which they happened; None when they happened in the one that pays
    """

    organization_id: UUID
    period_id: UUID
    late_for_period_id: UUID | None
    version_id: str
    meter: str

    @property
    def values(self) -> dict[str, Any]:
        """Parameters of the statements."""
        return dict(vars(self))


@dataclass(frozen=True)
class Counted:
    """What a slice adds up to.

    reversals: events taken back; their quantities are below zero
    """

    events: int
    reversals: int
    quantity: Decimal
    first_at: Any
    last_at: Any


def counted(session: Session, wanted: Slice) -> Counted:
    """How many events and reversals there are, and their sum."""
    return Counted(*session.execute(_COUNT, wanted.values).one())


def page(session: Session, wanted: Slice, after: RowMapping | None, limit: int) -> Sequence[RowMapping]:
    """The next events of a slice, reversals among them, in the order in which they were recorded.

    after: the last row of the page before
    """
    position = {"xid": after["recorded_xid"], "id": after["id"]} if after else {"xid": 0, "id": UUID(int=0)}
    return session.execute(_PAGE, {**wanted.values, **position, "limit": limit}).mappings().all()
