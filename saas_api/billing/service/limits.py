"""An operator's exceptions to what a plan allows; the gate keeps to them from the next request on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue
from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.organizations import service as organizations
from saas_api.organizations.models import OrganizationLimits
from saas_api.organizations.service import audit


@dataclass(frozen=True)
class Exceptions:
    """What holds instead of the plan's limits.

    rate_limit: requests a minute, 1 to 1,000,000; None for the plan's
    ceilings: by meter, in its unit, in one billing period; absent for the plan's
    expires_at: the plan holds again from then on; None for never
    """

    rate_limit: int | None = None
    ceilings: Mapping[str, Decimal] = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the plan holds as it is."""
        return self.rate_limit is None and not self.ceilings


def exceptions_of(session: Session, organization_id: UUID) -> Exceptions:
    """The exceptions that were made for an organization, expired ones too."""
    return _shown(session.get(OrganizationLimits, organization_id))


def set_exceptions(
    session: Session, organization_id: UUID, exceptions: Exceptions, actor: audit.Actor, reason: str
) -> None:
    """Make exceptions for an organization instead of those it has; empty ones give it back to its plan.

    session: of the system
    raises: NoSuchOrganization, Invalid
    """
    told = organizations.check_reason(reason)
    _check(session, exceptions)
    organizations.get(session, organization_id)
    row = session.get(OrganizationLimits, organization_id, with_for_update=True, populate_existing=True)
    before = _shown(row)
    if exceptions == before:
        raise Invalid.at("rate_limit", "These limits hold already.")
    if exceptions.is_empty:
        session.delete(row)
    else:
        row = row or OrganizationLimits(organization_id=organization_id)
        row.rate_limit_per_minute = exceptions.rate_limit
        row.ceilings = {meter: f"{limit.normalize():f}" for meter, limit in exceptions.ceilings.items()}
        row.expires_at, row.reason = exceptions.expires_at, told
        row.set_by = UUID(actor.id) if actor.kind == "operator" and actor.id else None
        session.add(row)
    session.flush()  # the gate reads the row once the change is known
    organizations.changed(session, organization_id)
    data = {"before": _words(before), "after": _words(exceptions), "reason": told}
    audit.record(session, organization_id, actor, "limits.changed", ("organization", organization_id), data)


def _check(session: Session, exceptions: Exceptions) -> None:
    if exceptions.expires_at and exceptions.expires_at <= clock.now():
        raise Invalid.at("expires_on", "Must be in the future.")
    if exceptions.is_empty and exceptions.expires_at:
        raise Invalid.at("expires_on", "There is no limit that could end.")
    known = catalogue.units(session)
    unknown = [(f"ceilings.{meter}", "There is no such meter.") for meter in exceptions.ceilings if meter not in known]
    if unknown:
        raise Invalid.fields(unknown)


def _shown(row: OrganizationLimits | None) -> Exceptions:
    if row is None:
        return Exceptions()
    ceilings = {meter: Decimal(str(limit)) for meter, limit in row.ceilings.items()}
    return Exceptions(row.rate_limit_per_minute, ceilings, row.expires_at)


def _words(exceptions: Exceptions) -> dict[str, Any]:
    return {
        "rate_limit_per_minute": exceptions.rate_limit,
        "ceilings": {meter: f"{limit.normalize():f}" for meter, limit in exceptions.ceilings.items()},
        "expires_at": exceptions.expires_at and clock.rfc3339(exceptions.expires_at),
    }
