"""Moves organizations from one plan version to another, and follows BILLING_RATE_PER_REQUEST with new versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import members, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import bill_inputs, periods, plans, subscriptions
from saas_api.billing.models import BillingProfile
from saas_api.billing.plans import PublishResult
from saas_api.billing.rating import bill, plan_file
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.plan_file import PlanContent
from saas_api.billing.subscriptions import (
    EFFECTIVE_PERIOD_END,
    NoOpenPeriod,
    PlanChange,
    SpendCapConflict,
    VersionNotInForce,
)
from saas_api.core import clock, formatting, money
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.observability import get_logger
from saas_api.core.roles import BILLING_ROLES
from saas_api.core.settings import setting
from saas_api.mail import mails

log = get_logger(__name__)


@dataclass(frozen=True)
class PlanMigration:
    """What moving an organization to another plan version changes.

    effective_at: when the organization moves; None if it stays because a change of its plan is scheduled
    before_minor, after_minor: bill of the whole current period with its usage so far, on the old and the new version
    cap_conflict: set if the organization's own spend cap refuses calls on the new version
    """

    organization_id: UUID
    organization_name: str
    effective_at: datetime | None
    before_minor: int
    after_minor: int
    currency: str
    cap_conflict: SpendCapConflict | None

    @property
    def difference_minor(self) -> int:
        """Above 0 if the organization pays more."""
        return self.after_minor - self.before_minor


@dataclass(frozen=True)
class PublicationPreview:
    """What publishing a plan file would do.

    organizations: their number by published version of the plan; they stay on their version until they are moved
    moves: what moving organizations from the newest version to the published one would change, at most some
    """

    result: PublishResult
    organizations: Mapping[str, int]
    moves: Sequence[PlanMigration]


@dataclass(frozen=True)
class SettingSync:
    """Result of `sync_setting_price`: ids of the published versions, number of organizations that were moved."""

    published: Sequence[str]
    moved: int


_ORGANIZATIONS_ON_VERSION = text("""
SELECT s.organization_id FROM subscription_segments s JOIN organizations o ON o.id = s.organization_id
WHERE s.plan_version_id = :source AND s.starts_at <= :at AND (s.ends_at IS NULL OR s.ends_at > :at)
  AND o.status <> 'closed' AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)
  AND (s.ends_at IS NULL OR NOT :is_movable)
ORDER BY o.name, o.id LIMIT :most""")


def preview_publication(document: Any, actor: Actor, most: int) -> PublicationPreview:
    """What publishing a plan file would do. It is published and taken back, so that usage is priced as it would be.

    most: number of organizations whose bills are previewed
    raises: InvalidDocument with every problem
    """
    moves: list[PlanMigration] = []
    with plans.catalogue_session() as session, tenancy.discarded_changes(session):
        result = plans.publish_in_session(session, document, actor)
        organizations_by_version = {
            row.version_id: row.organizations
            for row in plans.list_versions(session, clock.now())
            if row.code == result.plan and row.organizations
        }
        if result.previous and result.version_id:
            source, target = _load_versions(session, result.previous, result.version_id)
            affected = _list_organizations(session, source.id, None, most)
            moves = [_preview_one(session, one, source, target, EFFECTIVE_PERIOD_END) for one in affected]
    return PublicationPreview(result, organizations_by_version, moves)


def count_organizations(session: SystemSession, version_id: str, *, is_movable: bool = False) -> int:
    """Number of organizations on a plan version; is_movable leaves out those with a scheduled change of their plan."""
    return len(_list_organizations(session, version_id, None, is_movable=is_movable))


def preview_migration(
    source_id: str, target_id: str, when: str, organization_id: UUID | None, most: int | None = None
) -> list[PlanMigration]:
    """What `migrate` would do, by name of the organization. Opens billing periods that are missing.

    organization_id: None for every organization on the source version
    most: number of organizations; None for all
    raises: ValidationFailed for a version that is not published, or in another currency
    """
    with tenancy.system_session("billing.plan_migration") as session:
        source, target = _load_versions(session, source_id, target_id)
        affected = _list_organizations(session, source_id, organization_id, most)
    previews = []
    for affected_id in affected:
        with tenancy.system_session("billing.plan_migration") as session:
            previews.append(_preview_one(session, affected_id, source, target, when))
    return previews


def migrate(
    source_id: str,
    target_id: str,
    when: str,
    actor: Actor,
    organization_id: UUID | None = None,
    most: int | None = None,
) -> Iterator[PlanChange]:
    """Move the organizations on a plan version to another version, each in a transaction of its own. Idempotent.

    Each move is audited, published as an event and mailed to the organization's billing contacts. An organization
    with a scheduled change of its plan stays.

    when: "now" or "period_end"
    organization_id: None for every organization on the source version
    most: number of organizations; None for all
    raises: as `preview_migration`
    """
    with tenancy.system_session("billing.plan_migration") as session:
        source, target = _load_versions(session, source_id, target_id)
        affected = _list_organizations(session, source_id, organization_id, most, is_movable=True)
    for affected_id in affected:
        try:
            with tenancy.system_session("billing.plan_migration") as session:
                change = subscriptions.move_to_version(session, affected_id, source_id, target, when, actor)
                _enqueue_mails(session, affected_id, source, change)
        except VersionNotInForce:
            log.info("plan_migration_skipped", organization=str(affected_id), source=source_id)
            continue
        yield change


def _load_versions(session: SystemSession, source_id: str, target_id: str) -> tuple[RatedPlanVersion, RatedPlanVersion]:
    versions = plans.get_versions(session, [source_id, target_id])
    problems = [
        (field, f"There is no published plan version {version_id}.")
        for field, version_id in (("source", source_id), ("target", target_id))
        if version_id not in versions
    ]
    if problems:
        raise ValidationFailed.from_fields(problems)
    source, target = versions[source_id], versions[target_id]
    if source.currency != target.currency:
        raise ValidationFailed.at_field("target", f"{target_id} is in {target.currency}, not in {source.currency}.")
    if source.id == target.id:
        raise ValidationFailed.at_field("target", "Name another version than the source.")
    return source, target


def _list_organizations(
    session: SystemSession,
    version_id: str,
    organization_id: UUID | None,
    most: int | None = None,
    *,
    is_movable: bool = False,
) -> Sequence[UUID]:
    values = {
        "source": version_id,
        "at": clock.now(),
        "organization_id": organization_id,
        "most": most,
        "is_movable": is_movable,
    }
    return session.scalars(_ORGANIZATIONS_ON_VERSION, values).all()


def _preview_one(
    session: Session, organization_id: UUID, source: RatedPlanVersion, target: RatedPlanVersion, when: str
) -> PlanMigration:
    now = clock.now()
    periods.ensure_period(session, organization_id, now)
    subscription = subscriptions.get_subscription(session, organization_id, now)
    if subscription.period is None:
        raise NoOpenPeriod
    period, ids = subscription.period, (source.id, target.id)
    used = bill_inputs.usage_by_period(session, organization_id, [period], ids)
    before, after = (
        bill.calculate_bill(bill_inputs.inputs_for_version(period, version, used.get((period.id, version.id), ())))
        for version in (source, target)
    )
    effective_at = subscription.period.ends_at if when == EFFECTIVE_PERIOD_END else now
    return PlanMigration(
        organization_id,
        organizations.get_organization(session, organization_id).name,
        None if subscription.scheduled else effective_at,
        before.total_minor,
        after.total_minor,
        target.currency,
        subscriptions.find_cap_conflict(session.get_one(BillingProfile, organization_id), source, target),
    )


def _enqueue_mails(session: SystemSession, organization_id: UUID, source: RatedPlanVersion, change: PlanChange) -> None:
    with organizations.localized(session, organization_id) as organization:
        effective_at = mails.format_time(change.effective_at, organization.timezone)
        changes = _describe_changes(source, change.version)
    recipients = members.list_recipients(session, organization_id, BILLING_ROLES, includes_billing_email=True)
    for recipient in recipients:
        mails.enqueue(
            session,
            "plan_version_changed",
            recipient.email,
            organization_id=organization_id,
            name=recipient.name,
            organization=organization.name,
            plan=change.version.name,
            at=effective_at,
            changes=changes,
        )


def _describe_changes(source: RatedPlanVersion, target: RatedPlanVersion) -> list[str]:
    """One line for each amount and each meter whose price differs."""
    amounts = {
        "Base amount": (source.base_amount_minor, target.base_amount_minor),
        "Minimum": (source.min_spend_minor, target.min_spend_minor),
    }
    lines = [
        f"{label}: {formatting.format_money(before, source.currency)} a month before, "
        f"{formatting.format_money(after, target.currency)} from then on"
        for label, (before, after) in amounts.items()
        if before != after
    ]
    meters = sorted(source.prices.keys() | target.prices.keys())
    return lines + [
        f"Price of {meter} changes" for meter in meters if source.prices.get(meter) != target.prices.get(meter)
    ]


_INSERT_DRAFT = text("""
INSERT INTO plan_versions (id, plan_code, version, currency, base_amount_minor, min_spend_minor)
SELECT old.plan_code || '@' || newest.version + 1, old.plan_code, newest.version + 1, old.currency,
  old.base_amount_minor, old.min_spend_minor
FROM plan_versions old,
  LATERAL (SELECT max(version) AS version FROM plan_versions WHERE plan_code = old.plan_code) newest
WHERE old.id = :old RETURNING id""")
_COPY_CONTENT = (
    text("""INSERT INTO prices (plan_version_id, meter_code, dimension, dimension_value, model, included_quantity,
        unit_price, package_size, package_amount_minor, max_amount_minor)
      SELECT :new, meter_code, dimension, dimension_value, model, included_quantity,
        CASE WHEN meter_code = :meter AND dimension_value = '' THEN :rate ELSE unit_price END, package_size,
        package_amount_minor, max_amount_minor
      FROM prices WHERE plan_version_id = :old"""),
    text("""INSERT INTO price_tiers (plan_version_id, meter_code, dimension_value, ordinal, up_to, unit_price,
        flat_minor)
      SELECT :new, meter_code, dimension_value, ordinal, up_to, unit_price, flat_minor
      FROM price_tiers WHERE plan_version_id = :old"""),
    text("""INSERT INTO entitlements SELECT :new, feature, kind, value, meter_code, limit_quantity
      FROM entitlements WHERE plan_version_id = :old"""),
    text("UPDATE plan_versions SET state = 'published', published_at = now() WHERE id = :new"),
)
# Versions that organizations are on and stay on, and the newest one, the oldest first.
_VERSIONS_IN_USE = text("""
SELECT v.id FROM plan_versions v WHERE v.plan_code = :plan AND v.currency = :currency AND v.state = 'published'
  AND (EXISTS (SELECT FROM subscription_segments s WHERE s.plan_version_id = v.id AND s.ends_at IS NULL)
    OR v.version = (SELECT max(n.version) FROM plan_versions n
                    WHERE n.plan_code = :plan AND n.currency = :currency AND n.state = 'published'))
ORDER BY v.version""")
_PUBLISHED_VERSIONS = text("""SELECT id FROM plan_versions
  WHERE plan_code = :plan AND currency = :currency AND state = 'published'""")


def sync_setting_price(actor: Actor) -> SettingSync:
    """Give the plans that follow BILLING_RATE_PER_REQUEST that rate, in the default currency. Idempotent.

    Each version in use with another rate gets a successor that differs in the rate only. New organizations start on
    it at once, the others move to it with their next period, as by `migrate`. A currency in which only other plans are
    published gets the default plan. Opens transactions of its own.
    """
    rate: Decimal = setting("BILLING_RATE_PER_REQUEST")
    published = plans.publish_missing_defaults(actor)
    moved = 0
    for plan_code in plans.PLANS_PRICED_BY_SETTING:
        with tenancy.system_session("billing.plan_migration") as session:
            plans.lock_plans(session)
            successors, new_versions = _publish_successors(session, plan_code, rate)
        published += new_versions
        for source_id, target_id in successors.items():
            moved += sum(1 for _ in migrate(source_id, target_id, EFFECTIVE_PERIOD_END, actor))
    return SettingSync(published, moved)


def _publish_successors(
    session: SystemSession, plan_code: str, rate: Decimal
) -> tuple[Mapping[str, str], Sequence[str]]:
    """Successors of the versions in use with another rate, by version, and those of them that are new."""
    values = {"plan": plan_code, "currency": money.DEFAULT_CURRENCY}
    in_use = list(session.scalars(_VERSIONS_IN_USE, values))
    prices, meter = plans.get_prices(session, in_use), plans.find_rate_meter(session) or ""
    outdated = [
        version_id for version_id in in_use if (price := prices.get((version_id, meter))) and price.unit_price != rate
    ]
    if not outdated:
        return {}, []
    contents = {
        version_id: plans.get_plan_content(session, version_id)
        for version_id in session.scalars(_PUBLISHED_VERSIONS, values)
    }
    documents = [(plan_file.to_document(content), version_id) for version_id, content in contents.items()]
    successors: dict[str, str] = {}
    published: list[str] = []
    for version_id in outdated:
        wanted = plan_file.to_document(_with_rate(contents[version_id], meter, rate))
        successor = next((known_id for document, known_id in documents if document == wanted), None)
        if successor is None:
            successor = _publish_with_rate(session, version_id, meter, rate)
            documents.append((wanted, successor))
            published.append(successor)
        successors[version_id] = successor
    newest = in_use[-1]
    if published and successors.get(newest) != published[-1]:
        published.append(
            _publish_with_rate(session, newest, meter, rate)
        )  # what is offered to newcomers stays the newest
    return successors, published


def _with_rate(content: PlanContent, meter: str, rate: Decimal) -> PlanContent:
    price = replace(content.prices[meter], unit_price=rate)
    return replace(content, prices={**content.prices, meter: price})


def _publish_with_rate(session: SystemSession, old: str, meter: str, rate: Decimal) -> str:
    new = str(session.execute(_INSERT_DRAFT, {"old": old}).scalar_one())
    for statement in _COPY_CONTENT:
        session.execute(statement, {"old": old, "new": new, "meter": meter, "rate": rate})
    log.info("plan_published", version=new, rate=str(rate))
    return new
