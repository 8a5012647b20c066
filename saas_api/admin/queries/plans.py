"""The catalogue as operators see it: every version, what it charges, and who is on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue
from saas_api.billing.queries.catalogue import Listed
from saas_api.billing.rules.bill import Version
from saas_api.billing.rules.plans.catalogue import PlanContent, document
from saas_api.core.errors import NotFound

MOST_SUBSCRIBERS = 100
_SUBSCRIBERS = sa.text("""
SELECT o.id, o.name, o.status, s.standing, g.starts_at FROM subscription_segments g
JOIN organizations o ON o.id = g.organization_id JOIN subscriptions s ON s.organization_id = o.id
WHERE g.plan_version_id = :id AND g.starts_at <= :at AND (g.ends_at IS NULL OR g.ends_at > :at)
ORDER BY g.starts_at DESC, o.id LIMIT :most""")


@dataclass(frozen=True)
class Plan:
    """One version of a plan.

    document: as its file says it
    units: of the meters
    subscribers: the newest, at most MOST_SUBSCRIBERS
    """

    listed: Listed
    version: PlanContent
    document: Mapping[str, Any]
    units: Mapping[str, str]
    subscribers: Sequence[Any]


def listing(session: Session, at: datetime) -> list[tuple[Listed, Version]]:
    """Every published version with what it charges, in the catalogue's order."""
    listed = catalogue.listing(session, at)
    versions = catalogue.versions(session, [one.version_id for one in listed])
    return [(one, versions[one.version_id]) for one in listed]


def plan(session: Session, version_id: str, at: datetime) -> Plan:
    """One published version.

    raises: NotFound
    """
    listed = next((one for one in catalogue.listing(session, at) if one.version_id == version_id), None)
    if listed is None:
        raise NotFound
    values = {"id": version_id, "at": at, "most": MOST_SUBSCRIBERS}
    content = catalogue.content(session, version_id)
    return Plan(
        listed,
        content,
        document(content),
        catalogue.units(session),
        session.execute(_SUBSCRIBERS, values).all(),
    )
