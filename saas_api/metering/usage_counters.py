"""Counters in Redis of usage that was recorded without being checked, so that quota and cap stop what comes next."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from saas_api.accounts import organizations
from saas_api.accounts.models import OrganizationStatus
from saas_api.billing import service_terms
from saas_api.billing.models import BillingPeriod
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.ids import NIL_UUID
from saas_api.core.limits import counters
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.metering import limits
from saas_api.metering.event_format import ReceivedEvent
from saas_api.metering.key_principals import CACHE_SECONDS, KeyPrincipal
from saas_api.metering.lru_cache import LruCache
from saas_api.usage.ledger import MeteredUsage

MAX_CACHED_ORGANIZATIONS = 20_000
MAX_LOADS = 20
"""Organizations whose terms one call reads; the minute's reconciliation counts the usage of the others."""


@dataclass(frozen=True)
class _CountedPeriod:
    """The running period of an organization with its terms; events before `starts_at` count in no counter of it."""

    principal: KeyPrincipal
    starts_at: datetime

    @property
    def has_limits(self) -> bool:
        terms = self.principal.terms
        return terms is not None and (bool(terms.quotas) or terms.cap is not None)


_cache: LruCache[UUID, _CountedPeriod] = LruCache(MAX_CACHED_ORGANIZATIONS)


def add_usage(events: Mapping[UUID, Sequence[ReceivedEvent]]) -> None:
    """Add recorded events to the counters of organizations that have a quota or cap, in one round trip. Never raises.

    What is not counted here, such as late usage, the minute's reconciliation counts from PostgreSQL.
    events: by organization
    """
    changes: dict[str, int] = {}
    with contextlib.suppress(RedisUnavailable, SQLAlchemyError):
        for period, organization_id in _find_periods(events):
            usage = _sum_usage(events[organization_id], period.starts_at)
            changes.update(limits.counter_changes(period.principal, [], usage))
        counters.adjust_counters(changes)


def _find_periods(organization_ids: Mapping[UUID, object]) -> list[tuple[_CountedPeriod, UUID]]:
    found, loads = [], 0
    for organization_id in organization_ids:
        period = _cache.find(organization_id)
        if period is None or period.principal.age_seconds > CACHE_SECONDS:
            if loads == MAX_LOADS:
                continue
            loads += 1
            period = _load(organization_id)
            _cache.put(organization_id, period)
        if period.has_limits:
            found.append((period, organization_id))
    return found


def _load(organization_id: UUID) -> _CountedPeriod:
    loaded_at = time.monotonic()
    with tenancy.tenant_session(organization_id) as session:
        if organizations.get_organization(session, organization_id).status == OrganizationStatus.CLOSED:
            principal = KeyPrincipal("service", NIL_UUID, organization_id, loaded_at=loaded_at)
            return _CountedPeriod(principal, clock.now())  # its terms would open a period
        terms = service_terms.get_terms(session, organization_id)
        starts_at = session.get_one(BillingPeriod, (organization_id, terms.period_id)).starts_at
    principal = KeyPrincipal("service", NIL_UUID, organization_id, terms=terms, loaded_at=loaded_at)
    return _CountedPeriod(principal, starts_at)


def _sum_usage(events: Sequence[ReceivedEvent], since: datetime) -> list[MeteredUsage]:
    """Usage by meter and dimensions, of the meters that add up."""
    totals: dict[tuple[str, tuple[tuple[str, str], ...]], Decimal] = defaultdict(Decimal)
    for event in events:
        if event.meter.aggregation.is_additive and event.at >= since:
            totals[event.meter.code, event.dimensions] += event.quantity
    return [MeteredUsage(meter, quantity, dict(dimensions)) for (meter, dimensions), quantity in totals.items()]
