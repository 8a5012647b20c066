"""An act of somebody on an organization's invoices or money: who, and why, in the log of acts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.core.errors import Invalid
from saas_api.organizations.service import audit


@dataclass(frozen=True)
class Act:
    """Who changes an organization's bills, and the reason, without which nobody may.

    raises: Invalid for an empty reason
    """

    actor: audit.Actor
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise Invalid.at("reason", "Say why.")

    def record(
        self, session: Session, organization_id: UUID, action: str, target: tuple[str, object], data: Mapping[str, Any]
    ) -> None:
        """Write the act, in the session of the act."""
        audit.record(session, organization_id, self.actor, action, target, {**data, "reason": self.reason.strip()})
