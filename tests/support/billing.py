"""An organization with a billing account, created through services at a given time, with usage in its ledger."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import organizations, users
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import periods, plans
from saas_api.billing.rating import plan_file
from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from saas_api.usage import ledger, meters
from saas_api.usage.ledger import UsageRecord
from tests.support.ledger import USAGE_COLUMNS, append_sql


def day(number: int, hour: int = 0, month: int = 4) -> datetime:
    """An instant of 2026, in UTC."""
    return datetime(2026, month, number, hour, tzinfo=UTC)


@dataclass
class BillingOrganization:
    """An organization whose billing account the tests change and read."""

    id: UUID

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with tenancy.tenant_session(self.id) as session:
            yield session

    def use(
        self,
        quantity: Decimal | int,
        meter: str = "sms",
        *,
        at: datetime | None = None,
        is_late: bool = False,
        **fields: Any,
    ) -> UsageRecord:
        """Record one usage event as an accepted call does.

        fields: more of `UsageRecord`, such as properties and unique_value
        """
        event_id = ids.new_id()
        event = UsageRecord(
            event_id,
            "messages.send",
            str(event_id),
            meter,
            quantity,
            at or clock.now(),
            **fields,
        )
        statements = periods.record_usage_statements(self.id, event, is_late=is_late)
        engine.execute_batch([tenancy.tenant_scope_statement(self.id), *statements])
        return event

    def record(self, event: UsageRecord) -> None:
        """Append usage of any time; if its period is closed, the current one pays for it."""
        with self.transaction() as session:
            periods.ensure_period(session, self.id, max(clock.now(), event.at))
            periods.lock_periods_shared(session, self.id)
            session.connection().exec_driver_sql(*ledger.append_usage_statement(self.id, event, is_late=True))

    def reverse(self, event: UsageRecord) -> None:
        """Reverse an event; the current period pays for that of a closed one."""
        sql = append_sql(
            f"{USAGE_COLUMNS}, late_for_period_id, reversal_of",
            """SELECT u.organization_id, 'reversal', u.id::text, u.meter_code, -u.quantity, u.occurred_at, now.id,
                nullif(coalesce(u.late_for_period_id, u.billing_period_id), now.id), u.id, now.month
              FROM usage_events u, (SELECT id, month FROM billing_periods WHERE state = 'open' ORDER BY seq LIMIT 1) now
              WHERE u.id = :id""",
        )
        with self.transaction() as session:
            session.execute(text(sql), {"id": event.id})

    def switch(self, version: str, at: datetime) -> None:
        """Put another plan version in force from an instant on; it replaces a segment that starts then."""
        steps = (
            "DELETE FROM subscription_segments WHERE ends_at IS NULL AND starts_at = :at",
            "UPDATE subscription_segments SET ends_at = :at WHERE ends_at IS NULL",
            """INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id, starts_at)
              SELECT organization_id, id, (SELECT count(*) + 1 FROM subscription_segments), :version, :at
              FROM subscriptions""",
        )
        with self.transaction() as session:
            for step in steps:
                session.execute(text(step), {"at": at, "version": version})

    def rows(self, sql: str) -> list[Any]:
        """Rows that the tenant role of this organization reads."""
        with self.transaction() as session:
            return list(session.execute(text(sql)).all())

    def invoices(self) -> list[Any]:
        return self.rows("SELECT * FROM invoices ORDER BY serial")

    def lines(self) -> dict[str, int]:
        """Amounts by source key of the newest invoice."""
        return dict(
            self.rows("""SELECT source_key, amount_minor FROM invoice_lines
              WHERE invoice_id = (SELECT id FROM invoices ORDER BY serial DESC LIMIT 1) ORDER BY position""")
        )

    def grant(self, amount_minor: int, kind: str, priority: int) -> None:
        with tenancy.system_session("billing.close") as session:
            session.execute(
                text("""INSERT INTO credit_grants (organization_id, source_key, kind, currency, amount_minor,
                    remaining_minor, priority, effective_at) VALUES (:id, :kind, :kind, 'USD', :amount, :amount,
                    :priority, :at)"""),
                {"id": self.id, "kind": kind, "amount": amount_minor, "priority": priority, "at": clock.now()},
            )


def publish_meter(code: str, aggregation: str = "sum", dimensions: Sequence[str] = (), unit: str = "unit") -> None:
    """Publish a meter; the property of one that counts distinct values is named value."""
    unique = {"unique_property": "value"} if aggregation == "unique" else {}
    content = {"code": code, "name": code.title(), "unit": unit, "aggregation": aggregation, **unique}
    meters.publish_meter({**content, "dimensions": list(dimensions)}, SYSTEM_ACTOR)


def publish_prices(
    code: str, prices: Mapping[str, Any], *, base: str = "0.00", minimum: str = "0.00", calls_per_minute: int = 60
) -> str:
    """Publish a version of a plan that prices these meters, and messages at nothing; returns its id."""
    free = {"model": "per_unit", "unit_price": "0"}
    names = {"plan": code, "name": code.title(), "currency": "USD", "base_amount": base, "min_spend": minimum}
    content = {
        "prices": {"sms": free, "email": free, **prices},
        "entitlements": {"rate_limit_per_minute": calls_per_minute},
    }
    return str(plans.publish_plan({**names, **content}, SYSTEM_ACTOR).version_id)


def publish_plan(code: str, *, minimum: str = "0.00", sms_price: str = "0.01") -> None:
    """Publish a plan without base amount."""
    prices = {"sms": {"model": "per_unit", "unit_price": sms_price}, "email": {"model": "per_unit", "unit_price": "0"}}
    names = {"plan": code, "name": code.title(), "currency": "USD", "base_amount": "0.00", "min_spend": minimum}
    content = {**names, "prices": prices, "entitlements": {"rate_limit_per_minute": 60}}
    plans.publish_plan(content, SYSTEM_ACTOR)


def publish_metered() -> str:
    """Publish `metered`: 29.00 a month, and every unit is charged, an SMS at 0.01 and an email at 0.001."""
    amounts = {"sms": "0.01", "email": "0.001"}
    prices = {meter: {"model": "per_unit", "unit_price": amount} for meter, amount in amounts.items()}
    return publish_prices("metered", prices, base="29.00", calls_per_minute=600)


def publish_included_sms(plan: str, quantity: int) -> None:
    """Publish another version of a plan that differs from the newest one in its included sms."""
    with tenancy.system_session("billing.catalogue") as session:
        content = plans.get_plan_content(session, plans.get_newest_version_id(session, plan))
    price = replace(content.prices["sms"], included_quantity=Decimal(quantity))
    document = plan_file.to_document(replace(content, prices={**content.prices, "sms": price}))
    plans.publish_plan(document, SYSTEM_ACTOR)


def create_organization(
    name: str = "Acme", at: datetime | None = None, plan: str = "free@1", zone: str = "UTC"
) -> BillingOrganization:
    """Freeze time at an instant and create an organization on a plan."""
    clock.freeze_time(at or day(1))
    with tenancy.system_session("auth.register") as session:
        owner = users.create_user(session, f"alice@{name.lower()}.example", "correct horse battery", "Alice")
        row = organizations.create_organization(session, name, owner.id)
        row.timezone = zone
        organization = BillingOrganization(row.id)
    with organization.transaction() as session:
        periods.ensure_account(session, organization.id)
    if plan != "free@1":
        organization.switch(plan, clock.now())
    return organization
