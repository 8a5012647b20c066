"""Accounts and periods come into being when they are first needed; every step may be repeated by anybody."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.billing.models import AlertRule, BillingPeriod, BillingProfile, Subscription, SubscriptionSegment
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.inputs import find_containing
from saas_api.billing.rules import periods
from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.core.ids import new_id, wire_id
from saas_api.core.money import exponent
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations
from saas_api.usage import service as usage
from saas_api.usage.rules import Usage
from saas_api.webhooks import service as webhooks

FIRST_PLAN, FIRST_CURRENCY = "free", "USD"
FIRST_ALERTS = (
    *(("spend_percent_of_cap", None, percent) for percent in (50, 80, 100)),
    *(("percent_of_included", meter, percent) for meter in ("sms", "email") for percent in (80, 100)),
)
AHEAD = timedelta(minutes=5)
_LOCK_ORGANIZATION = text("SELECT FROM organizations WHERE id = :id FOR NO KEY UPDATE")
_LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended(%(period_lock)s, 1))"


def hold_periods(session: Session, organization_id: UUID) -> None:
    """Take the shared period lock in a session: no period is closed before its transaction ends."""
    session.connection().exec_driver_sql(*lock_statement(organization_id))


def lock_statement(organization_id: UUID) -> tuple[str, dict[str, Any]]:
    """The shared period lock as a statement of `core.db.execute_once`: no period is closed before the batch ends.

    It must stand in an earlier statement than any lookup of a period, whose snapshot is then taken after the wait.
    """
    return _LOCK_SHARED, {"period_lock": str(organization_id)}


def record_statements(
    organization_id: UUID, event: Usage, *, is_late: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """The shared period lock and one ledger row, as statements of `core.db.execute_once`.

    is_late: where the event lies in a closed period, let the earliest open one pay
    """
    return [lock_statement(organization_id), usage.append_statement(organization_id, event, is_late=is_late)]


def record(session: Session, organization_id: UUID, event: Usage) -> None:
    """Write usage into the ledger; where its period is closed, the running one pays and names it.

    The period lock is held until the transaction ends, so this is the last thing the caller does in it.
    raises: Invalid for usage from the future, from before the first period, or from a period closed too long ago
    """
    now = clock.now()
    if event.quantity <= 0:
        raise Invalid.at("quantity", "Must be above zero.")
    if event.at > now + AHEAD:
        raise Invalid.at("occurred_at", "Lies in the future.")
    ensure_account(session, organization_id)
    ensure_period(session, organization_id, max(now, event.at))
    hold_periods(session, organization_id)
    period = find_containing(session, organization_id, event.at)
    if period is None:
        raise Invalid.at("occurred_at", "Lies before the first billing period.")
    if period.state != "open" and event.at < now - timedelta(days=setting("LATE_USAGE_DAYS")):
        raise Invalid.at("occurred_at", f"More than {setting('LATE_USAGE_DAYS')} days ago, in a period that is closed.")
    session.connection().exec_driver_sql(*usage.append_statement(organization_id, event, is_late=True))


def ensure_account(session: Session, organization_id: UUID) -> None:
    """Give an organization its profile, subscription on the free plan and first period, unless it has them.

    raises: NoSuchOrganization
    """
    if _last(session, organization_id):
        return
    organization = organizations.get(session, organization_id)
    started_at = organization.created_at
    _add_profile(session, organization_id)
    row = insert(Subscription).values(organization_id=organization_id, id=new_id(), started_at=started_at)
    added = row.on_conflict_do_nothing(index_elements=["organization_id"]).returning(Subscription.id)
    is_new = session.execute(added).first() is not None
    subscription = _subscription(session, organization_id)
    session.execute(
        insert(SubscriptionSegment)
        .values(
            organization_id=organization_id,
            id=new_id(),
            subscription_id=subscription.id,
            seq=1,
            plan_version_id=catalogue.newest(session, FIRST_PLAN),
            starts_at=subscription.started_at,
        )
        .on_conflict_do_nothing(index_elements=["organization_id", "seq"])
    )
    open_period(session, subscription, 1, subscription.started_at, periods.AT_SIGN_UP)
    if is_new:
        _publish(session, subscription)


def _publish(session: Session, subscription: Subscription) -> None:
    """Tell that it began, with the organization's row held, which comes before its endpoints."""
    session.execute(_LOCK_ORGANIZATION, {"id": subscription.organization_id})
    data = {
        "object": "subscription",
        "id": wire_id("sub", subscription.id),
        "status": subscription.state,
        "plan": FIRST_PLAN,
        "previous_plan": None,
        "canceled_at": None,
    }
    webhooks.publish(
        session, subscription.organization_id, "subscription.created", webhooks.Subject(subscription.id), data
    )


def _add_profile(session: Session, organization_id: UUID) -> None:
    default: Decimal | None = setting("DEFAULT_SPEND_CAP")
    cap = None if default is None else int(default.scaleb(exponent(FIRST_CURRENCY)))
    row = insert(BillingProfile).values(organization_id=organization_id, spend_cap_minor=cap)
    added = row.on_conflict_do_nothing(index_elements=["organization_id"]).returning(BillingProfile.organization_id)
    if session.execute(added).first():
        session.execute(
            insert(AlertRule),
            [
                {
                    "organization_id": organization_id,
                    "id": new_id(),
                    "subject": subject,
                    "meter_code": meter,
                    "threshold": at,
                }
                for subject, meter, at in FIRST_ALERTS
            ],
        )


def ensure_period(session: Session, organization_id: UUID, at: datetime) -> None:
    """Let periods follow each other until one contains `at`; changes nothing that exists."""
    last = _last(session, organization_id)
    if last is None or last.ends_at > at:
        return
    hold_periods(session, organization_id)
    subscription = _subscription(session, organization_id)
    while (last := _last(session, organization_id)) and last.ends_at <= at:
        open_period(session, subscription, last.seq + 1, last.ends_at, periods.IN_COURSE)


def follow_zone(session: Session, organization_id: UUID, at: datetime) -> None:
    """Move the end of the last period to the grid of the organization's zone, unless the period has begun by `at`.

    session: of the system; it holds the period lock alone
    """
    last = _last(session, organization_id)
    organization = organizations.get(session, organization_id)
    if last is None or last.state != "open" or last.starts_at <= at or last.timezone == organization.timezone:
        return
    zone, anchor_day = clock.zone(organization.timezone), _subscription(session, organization_id).anchor_day
    last.ends_at = periods.next_end(last.starts_at, anchor_day, zone, periods.IN_COURSE)
    last.nominal_seconds = periods.nominal_seconds(last.starts_at, last.ends_at, anchor_day, zone)
    last.timezone = organization.timezone
    organizations.changed(session, organization_id)


def open_period(
    session: Session,
    subscription: Subscription,
    seq: int,
    starts_at: datetime,
    at_least: timedelta,
) -> None:
    """Add a period to the chain, unless another process was first."""
    organization = organizations.get(session, subscription.organization_id)
    zone = clock.zone(organization.timezone)
    ends_at = periods.next_end(starts_at, subscription.anchor_day, zone, at_least)
    session.execute(
        insert(BillingPeriod)
        .values(
            organization_id=subscription.organization_id,
            id=new_id(),
            subscription_id=subscription.id,
            seq=seq,
            starts_at=starts_at,
            ends_at=ends_at,
            nominal_seconds=periods.nominal_seconds(starts_at, ends_at, subscription.anchor_day, zone),
            timezone=organization.timezone,
        )
        .on_conflict_do_nothing(index_elements=["organization_id", "seq"])
    )


def _subscription(session: Session, organization_id: UUID) -> Subscription:
    return session.scalars(select(Subscription).where(Subscription.organization_id == organization_id)).one()


def _last(session: Session, organization_id: UUID) -> BillingPeriod | None:
    newest_first = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    return session.scalars(
        newest_first.order_by(BillingPeriod.seq.desc()).limit(1).execution_options(populate_existing=True)
    ).first()
