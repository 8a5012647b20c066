"""Organizations of the whole platform: found by what somebody knows of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.api_keys.models import ApiKeySecret
from saas_api.api_keys.rules import hint_of, looks_like_key
from saas_api.billing.models import Subscription, SubscriptionSegment
from saas_api.core.fields import Page
from saas_api.core.ids import read_id
from saas_api.organizations.models import Membership, Organization
from saas_api.users.models import User

RECENT = timedelta(days=30)
_FIGURES = sa.text("""
SELECT o.id,
  (SELECT count(*) FROM memberships m WHERE m.organization_id = o.id) AS members,
  (SELECT coalesce(sum(r.event_count), 0)::bigint FROM usage_rollups r
    WHERE r.organization_id = o.id AND r.bucket_at >= :since) AS requests,
  (SELECT coalesce(sum(i.due_minor), 0)::bigint FROM invoices i
    WHERE i.organization_id = o.id AND i.state IN ('open', 'uncollectible')) AS unpaid_minor,
  (SELECT b.currency FROM billing_profiles b WHERE b.organization_id = o.id) AS currency
FROM organizations o WHERE o.id = ANY (:ids)""")


@dataclass(frozen=True)
class Row:
    """An organization in a list.

    plan_version: None before its account is opened, as standing
    requests: accepted under its keys in thirty days, as far as they are rolled up
    unpaid_minor: of finalized invoices
    """

    id: UUID
    name: str
    status: str
    standing: str | None
    plan_version: str | None
    created_at: datetime
    members: int = 0
    requests: int = 0
    unpaid_minor: int = 0
    currency: str | None = None

    @property
    def state(self) -> str:
        """What holds: the operator's switch first, then what unpaid invoices have led to."""
        if self.status != "active" or self.standing in (None, "good"):
            return self.status
        return str(self.standing)


def search(session: Session, query: dict[str, Any], at: datetime) -> Page:
    """A page of `Row`, newest first.

    query: limit, cursor, format; q: a part of the name, an id, a part of an address, or the beginning of an API key;
        status; standing; plan
    raises: Invalid
    """
    in_force = sa.and_(
        SubscriptionSegment.organization_id == Organization.id,
        SubscriptionSegment.starts_at <= at,
        SubscriptionSegment.ends_at.is_(None) | (SubscriptionSegment.ends_at > at),
    )
    wanted = (
        sa.select(
            Organization.id,
            Organization.name,
            Organization.status,
            Subscription.standing,
            SubscriptionSegment.plan_version_id,
            Organization.created_at.label("since"),
        )
        .outerjoin(Subscription, Subscription.organization_id == Organization.id)
        .outerjoin(SubscriptionSegment, in_force)
        .where(*_conditions(query))
    )
    found = page_of(session, wanted, query, (Organization.created_at, Organization.id))
    return Page(_with_figures(session, found.items, at), found.next_cursor, found.limit)


def _conditions(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query["q"]:
        conditions.append(_is_meant(query["q"].strip()))
    if query["status"]:
        conditions.append(Organization.status == query["status"])
    if query["standing"]:
        conditions.append(Subscription.standing == query["standing"])
    if query["plan"]:
        conditions.append(SubscriptionSegment.plan_version_id.startswith(f"{query['plan']}@", autoescape=True))
    return conditions


def _is_meant(words: str) -> sa.ColumnElement[bool]:
    try:
        return Organization.id == read_id("org", words)
    except ValueError:
        pass
    if looks_like_key(words):
        hint = hint_of(words)
        secrets = sa.select(ApiKeySecret.organization_id).where(ApiKeySecret.hint.startswith(hint, autoescape=True))
        return Organization.id.in_(secrets)
    if "@" in words:
        members = (
            sa.select(Membership.organization_id)
            .join(User, User.id == Membership.user_id)
            .where(sa.func.lower(User.email).contains(words.lower(), autoescape=True))
        )
        is_billed = sa.func.lower(Organization.billing_email).contains(words.lower(), autoescape=True)
        return sa.or_(Organization.id.in_(members), is_billed)
    return sa.or_(
        Organization.name.icontains(words, autoescape=True),
        Organization.slug.startswith(words.lower(), autoescape=True),
    )


def _with_figures(session: Session, rows: Sequence[Any], at: datetime) -> list[Row]:
    values = {"ids": [row[0] for row in rows], "since": at - RECENT}
    figures = {row.id: tuple(row)[1:] for row in session.execute(_FIGURES, values)}
    return [Row(*tuple(row)[:6], *figures[row[0]]) for row in rows]
