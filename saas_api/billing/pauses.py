"""Times in which an organization pays no base amount and no minimum: while an operator has suspended it."""

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.rating.plan_changes import Pause
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession

_PAUSES = text("""
SELECT starts_at, ends_at FROM billing_pauses WHERE organization_id = :organization_id
UNION ALL SELECT ended_at, NULL FROM subscriptions WHERE organization_id = :organization_id AND ended_at IS NOT NULL
ORDER BY starts_at""")


def list_pauses(session: Session, organization_id: UUID) -> list[Pause]:
    """The pauses of an organization, in order; a subscription that has ended is paused for good."""
    return [Pause(*row) for row in session.execute(_PAUSES, {"organization_id": organization_id})]


_BATCH_PAUSES = text("""
SELECT organization_id, starts_at, ends_at FROM billing_pauses WHERE organization_id = ANY (:organizations)
UNION ALL SELECT organization_id, ended_at, NULL FROM subscriptions
WHERE organization_id = ANY (:organizations) AND ended_at IS NOT NULL
ORDER BY starts_at""")


def list_pauses_in_batch(session: SystemSession, organization_ids: Collection[UUID]) -> defaultdict[UUID, list[Pause]]:
    """As `list_pauses`, of several organizations."""
    pauses: defaultdict[UUID, list[Pause]] = defaultdict(list)
    for organization_id, *bounds in session.execute(_BATCH_PAUSES, {"organizations": list(organization_ids)}):
        pauses[organization_id].append(Pause(*bounds))
    return pauses


_START = text("""INSERT INTO billing_pauses (organization_id, starts_at) VALUES (:organization_id, :at)
  ON CONFLICT DO NOTHING""")
_END = text("""UPDATE billing_pauses SET ends_at = :at
  WHERE organization_id = :organization_id AND ends_at IS NULL AND starts_at < :at""")
_DELETE_EMPTY = text("DELETE FROM billing_pauses WHERE organization_id = :organization_id AND ends_at IS NULL")


def start_pause(session: SystemSession, organization_id: UUID) -> None:
    """Pause the charges of an organization from now on."""
    session.execute(_START, {"organization_id": organization_id, "at": clock.now()})


def end_pause(session: SystemSession, organization_id: UUID) -> None:
    """Charge an organization again from now on."""
    values = {"organization_id": organization_id, "at": clock.now()}
    session.execute(_END, values)
    session.execute(_DELETE_EMPTY, values)
