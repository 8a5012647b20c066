"""Billing accounts and their chain of periods; usage is recorded under a shared lock of the periods."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, select, text
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.billing import plans
from saas_api.billing.models import (
    AlertRule,
    BillingPeriod,
    BillingProfile,
    PeriodStatus,
    Subscription,
    SubscriptionSegment,
)
from saas_api.billing.plans import DEFAULT_PLAN
from saas_api.billing.rating import period_grid
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD, MIN_PERIOD
from saas_api.billing.rating.thresholds import AlertSubject
from saas_api.core import ids, money, time_zones
from saas_api.core.db import tenancy
from saas_api.core.db.prepared import Statement
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.usage import ledger
from saas_api.usage.ledger import UsageRecord
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject

log = get_logger(__name__)

_FIRST_SPEND_ALERTS, _FIRST_QUANTITY_ALERTS = (50, 80, 100), (80, 100)
"""In percent of the spend cap, and of what the plan includes of a meter."""
_PERIOD_LEAD_TIME = timedelta(days=3)
_BATCH_SIZE = 50


def find_earliest_open_period(session: Session, organization_id: UUID) -> BillingPeriod | None:
    """The earliest open period; it pays for late usage when no open period contains the present."""
    statement = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    return session.scalars(
        statement.where(BillingPeriod.status == PeriodStatus.OPEN).order_by(BillingPeriod.seq)
    ).first()


def find_current_period(session: Session, organization_id: UUID, at: datetime) -> BillingPeriod | None:
    """The open period that contains an instant."""
    return session.scalars(
        select(BillingPeriod)
        .where(BillingPeriod.organization_id == organization_id, BillingPeriod.status == PeriodStatus.OPEN)
        .where(BillingPeriod.starts_at <= at, BillingPeriod.ends_at > at)
    ).first()


_WITH_OLD_ZONE = text("""
SELECT o.id FROM organizations o JOIN LATERAL (
  SELECT starts_at, timezone FROM billing_periods p WHERE p.organization_id = o.id ORDER BY seq DESC LIMIT 1) p ON true
WHERE p.starts_at > :at AND p.timezone <> o.timezone
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)""")
_WITHOUT_PERIOD = text("""
SELECT o.id FROM organizations o
WHERE o.status <> 'closed' AND o.closed_at IS NULL
  AND NOT EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = o.id AND p.ends_at > :until)
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)""")


def ensure_accounts(at: datetime, organization_id: UUID | None = None) -> None:
    """Create missing accounts, and each next period three days before it begins, in the organization's time zone.

    Opens its own transactions, for next periods one for many organizations; the failure of one organization does not
    stop the others.

    organization_id: None for all
    """
    until = at + _PERIOD_LEAD_TIME
    values = {"until": until, "at": at, "organization_id": organization_id}
    for owner in _list_organizations(_WITH_OLD_ZONE, values):
        _realign(owner, at)
    without_period = _list_organizations(_WITHOUT_PERIOD, values)
    if len(without_period) > 1:
        for start in range(0, len(without_period), _BATCH_SIZE):
            _append_in_batch(without_period[start : start + _BATCH_SIZE], until)
        without_period = _list_organizations(_WITHOUT_PERIOD, values)  # without an account, or the batch failed
    for owner in without_period:
        try:
            with tenancy.tenant_session(owner) as session:
                ensure_account(session, owner)
                ensure_period(session, owner, until)
        except Exception:
            log.exception("billing_account_failed", organization_id=str(owner))


def _list_organizations(statement: TextClause, values: Mapping[str, Any]) -> Sequence[UUID]:
    with tenancy.system_session("billing.account") as session:
        return session.scalars(statement, values).all()


def _append_in_batch(organization_ids: Collection[UUID], at: datetime) -> None:
    """As `ensure_period`, of several organizations; nothing for those without an account."""
    try:
        with tenancy.system_session("billing.account") as session:
            session.connection().exec_driver_sql(*shared_locks_statement(organization_ids))
            rows = session.execute(_LAST_PERIODS, {"organizations": list(organization_ids)}).all()
            if missing := [values for row in rows for values in _missing_periods(row, at)]:
                session.execute(_insert_periods().values(missing))
    except Exception:
        log.exception("billing_period_batch_failed", organizations=len(organization_ids))


_LAST_PERIODS = text("""
SELECT DISTINCT ON (p.organization_id) p.organization_id, p.subscription_id, p.seq, p.ends_at, s.anchor_day, o.timezone
FROM billing_periods p
JOIN subscriptions s ON s.organization_id = p.organization_id
JOIN organizations o ON o.id = p.organization_id
WHERE p.organization_id = ANY (:organizations) ORDER BY p.organization_id, p.seq DESC""")


def _missing_periods(last: Any, at: datetime) -> Iterator[dict[str, Any]]:
    """The periods after the last one until one contains an instant."""
    seq, ends_at = last.seq, last.ends_at
    while ends_at <= at:
        seq += 1
        place = _Place(last.organization_id, last.subscription_id, seq)
        values = _period_values(place, ends_at, last.anchor_day, last.timezone, MIN_PERIOD)
        ends_at = values["ends_at"]
        yield values


def _realign(organization_id: UUID, at: datetime) -> None:
    try:
        with tenancy.system_session("billing.close") as session:
            lock_periods(session, organization_id)
            realign_last_period(session, organization_id, at)
    except Exception:
        log.exception("billing_zone_failed", organization_id=str(organization_id))


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:organization, 1))")


def lock_periods(session: SystemSession, organization_id: UUID) -> None:
    """Lock the periods of an organization until the transaction ends: no usage is recorded meanwhile."""
    session.execute(_LOCK, {"organization": str(organization_id)})


# Who has to be waited for is left out: meanwhile the calls of all the others would wait, too.
_TRY_LOCKS = text("""SELECT id FROM (
  SELECT id FROM organizations o WHERE id = ANY (:organizations) AND EXISTS (
    SELECT FROM billing_periods p WHERE p.organization_id = o.id AND p.ends_at > :at)
  FOR NO KEY UPDATE SKIP LOCKED) free
WHERE pg_try_advisory_xact_lock(hashtextextended(CAST(id AS text), 1))""")


def try_lock_periods(session: SystemSession, organization_ids: Collection[UUID], at: datetime) -> list[UUID]:
    """As `lock_periods`, of several organizations without waiting, and with their rows for `bump_generations`.

    returns: those that are locked now, and have a period that ends after `at`
    """
    return list(session.scalars(_TRY_LOCKS, {"organizations": list(organization_ids), "at": at}))


def lock_periods_shared(session: Session, organization_id: UUID) -> None:
    """Take the shared period lock: no period is closed before the transaction ends."""
    session.connection().exec_driver_sql(*shared_lock_statement(organization_id))


_LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended(%(period_lock)s, 1))"


def shared_lock_statement(organization_id: UUID) -> Statement:
    """The shared period lock as a statement for `engine.execute_batch`: no period is closed before the batch ends.

    It must precede the statement that looks a period up, so that its snapshot is taken after the wait for the lock.
    """
    return _LOCK_SHARED, {"period_lock": str(organization_id)}


_LOCK_ALL_SHARED = """SELECT count(pg_advisory_xact_lock_shared(hashtextextended(o, 1)))
FROM unnest(CAST(%(period_locks)s AS text[])) AS o"""


def shared_locks_statement(organization_ids: Collection[UUID]) -> Statement:
    """The shared period locks of several organizations, in the order of their ids, as `shared_lock_statement`."""
    return _LOCK_ALL_SHARED, {"period_locks": sorted(map(str, organization_ids))}


def record_usage_statements(organization_id: UUID, event: UsageRecord, *, is_late: bool = False) -> list[Statement]:
    """The shared period lock and one ledger row, as statements for `engine.execute_batch`.

    is_late: usage of a closed period is paid for by the current period
    """
    return [
        shared_lock_statement(organization_id),
        ledger.append_usage_statement(organization_id, event, is_late=is_late),
    ]


def ensure_account(session: Session, organization_id: UUID) -> None:
    """Create the profile, the subscription on the free plan and the first period of an organization if it has none.

    raises: OrganizationNotFound
    """
    if _last_period(session, organization_id):
        return
    organization = organizations.get_organization(session, organization_id)
    started_at = organization.created_at
    version_id = plans.get_newest_version_id(session, DEFAULT_PLAN)
    _add_profile(session, organization_id, version_id)
    values = insert(Subscription).values(organization_id=organization_id, id=ids.new_id(), started_at=started_at)
    statement = values.on_conflict_do_nothing(index_elements=["organization_id"]).returning(Subscription.id)
    is_new = session.execute(statement).first() is not None
    subscription = _subscription(session, organization_id)
    session.execute(
        insert(SubscriptionSegment)
        .values(
            organization_id=organization_id,
            id=ids.new_id(),
            subscription_id=subscription.id,
            seq=1,
            plan_version_id=version_id,
            starts_at=subscription.started_at,
        )
        .on_conflict_do_nothing(index_elements=["organization_id", "seq"])
    )
    _open_period(session, subscription, 1, subscription.started_at, MIN_FIRST_PERIOD)
    if is_new:
        _publish_created(session, subscription, version_id)


_LOCK_ORGANIZATION = text("SELECT FROM organizations WHERE id = :id FOR NO KEY UPDATE")


def _publish_created(session: Session, subscription: Subscription, version_id: str) -> None:
    # The organization is locked before its endpoints everywhere, so that two transactions cannot deadlock.
    session.execute(_LOCK_ORGANIZATION, {"id": subscription.organization_id})
    version = plans.get_versions(session, [version_id])[version_id]
    resource = {"subscription": subscription, "version": version, "previous_plan": None}
    data = event_types.dump_data("subscription.created", resource)
    events.publish(session, subscription.organization_id, "subscription.created", EventSubject(subscription.id), data)


def _add_profile(session: Session, organization_id: UUID, version_id: str) -> None:
    cap = setting("DEFAULT_SPEND_CAP").get(money.DEFAULT_CURRENCY)
    values = insert(BillingProfile).values(organization_id=organization_id, spend_cap_minor=cap)
    statement = values.on_conflict_do_nothing(index_elements=["organization_id"])
    if session.execute(statement.returning(BillingProfile.organization_id)).first():
        session.execute(
            insert(AlertRule),
            [
                {
                    "organization_id": organization_id,
                    "id": ids.new_id(),
                    "subject": subject,
                    "meter_code": meter,
                    "threshold": threshold,
                }
                for subject, meter, threshold in _first_alerts(session, version_id)
            ],
        )


def _first_alerts(session: Session, version_id: str) -> Iterator[tuple[AlertSubject, str | None, int]]:
    """Alerts of a new organization: on its spend cap, and on every meter of which its plan includes some."""
    for percent in _FIRST_SPEND_ALERTS:
        yield AlertSubject.SPEND_PERCENT_OF_CAP, None, percent
    for meter, price in plans.get_versions(session, [version_id])[version_id].prices.items():
        for percent in _FIRST_QUANTITY_ALERTS if price.includes_some else ():
            yield AlertSubject.PERCENT_OF_INCLUDED, meter, percent


def ensure_period(session: Session, organization_id: UUID, at: datetime) -> None:
    """Append periods until one contains an instant; existing periods are not changed."""
    last = _last_period(session, organization_id)
    if last is None or last.ends_at > at:
        return
    lock_periods_shared(session, organization_id)
    subscription = _subscription(session, organization_id)
    while (last := _last_period(session, organization_id)) and last.ends_at <= at:
        _open_period(session, subscription, last.seq + 1, last.ends_at, MIN_PERIOD)


def set_anchor_day(session: SystemSession, organization_id: UUID, anchor_day: int, at: datetime) -> None:
    """Change the billing day. The period after the one that has begun ends on it, however short it becomes.

    session: holds the exclusive period lock
    """
    _subscription(session, organization_id).anchor_day = anchor_day
    session.flush()
    ensure_period(session, organization_id, at)
    last = _last_period(session, organization_id)
    if last and last.starts_at <= at:
        ensure_period(session, organization_id, last.ends_at)
        last = _last_period(session, organization_id)
    if last and last.status == PeriodStatus.OPEN:
        _set_end(session, last, MIN_FIRST_PERIOD)


def realign_last_period(session: SystemSession, organization_id: UUID, at: datetime) -> None:
    """Move the end of the last period to the organization's time zone; a period that has begun keeps its bounds.

    session: holds the exclusive period lock
    """
    last = _last_period(session, organization_id)
    organization = organizations.get_organization(session, organization_id)
    if (
        last is None
        or last.status != PeriodStatus.OPEN
        or last.starts_at <= at
        or last.timezone == organization.timezone
    ):
        return
    is_short = last.ends_at - last.starts_at < MIN_PERIOD  # because the billing day was changed
    _set_end(session, last, MIN_FIRST_PERIOD if is_short else MIN_PERIOD)


def _set_end(session: SystemSession, last: BillingPeriod, min_length: timedelta) -> None:
    organization = organizations.get_organization(session, last.organization_id)
    zone, anchor_day = (
        time_zones.get_zone(organization.timezone),
        _subscription(session, last.organization_id).anchor_day,
    )
    last.ends_at = period_grid.next_period_end(last.starts_at, anchor_day, zone, min_length)
    last.nominal_seconds = period_grid.nominal_seconds(last.starts_at, last.ends_at, anchor_day, zone)
    last.timezone = organization.timezone
    organizations.bump_generation(session, last.organization_id)


def _open_period(
    session: Session,
    subscription: Subscription,
    seq: int,
    starts_at: datetime,
    min_length: timedelta,
) -> None:
    """Append a period, unless another process was faster."""
    timezone = organizations.get_organization(session, subscription.organization_id).timezone
    place = _Place(subscription.organization_id, subscription.id, seq)
    session.execute(
        _insert_periods().values(_period_values(place, starts_at, subscription.anchor_day, timezone, min_length))
    )


class _Place(NamedTuple):
    """The place of a period in the chain of its organization."""

    organization_id: UUID
    subscription_id: UUID
    seq: int


def _period_values(
    place: _Place, starts_at: datetime, anchor_day: int, timezone: str, min_length: timedelta
) -> dict[str, Any]:
    """A period that starts at an instant, by attribute of `BillingPeriod`."""
    zone = time_zones.get_zone(timezone)
    ends_at = period_grid.next_period_end(starts_at, anchor_day, zone, min_length)
    return {
        **place._asdict(),
        "id": ids.new_id(),
        "starts_at": starts_at,
        "ends_at": ends_at,
        "nominal_seconds": period_grid.nominal_seconds(starts_at, ends_at, anchor_day, zone),
        "timezone": timezone,
    }


def _insert_periods() -> Insert:
    """An INSERT of periods that another process may have appended meanwhile."""
    return insert(BillingPeriod).on_conflict_do_nothing(index_elements=["organization_id", "seq"])


def _subscription(session: Session, organization_id: UUID) -> Subscription:
    return session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()


def _last_period(session: Session, organization_id: UUID) -> BillingPeriod | None:
    statement = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    return session.scalars(
        statement.order_by(BillingPeriod.seq.desc()).limit(1).execution_options(populate_existing=True)
    ).first()
