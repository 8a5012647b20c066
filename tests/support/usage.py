"""An organization that signs up through HTTP, creates keys, and writes usage events to the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.usage import ledger, request_recorder, rollups
from saas_api.usage.ledger import UsageRecord
from tests.support.accounts import Headers, create_key, sign_up
from tests.support.ledger import USAGE_COLUMNS, append_sql
from tests.support.organizations import Organization

APRIL_15 = datetime(2026, 4, 15, 12, 30, tzinfo=UTC)


@dataclass
class UsageOrganization(Organization):
    """An organization and its keys by name."""

    keys: dict[str, UUID] = field(default_factory=dict)
    key_headers: dict[str, Headers] = field(default_factory=dict)

    def roll_up(self) -> None:
        with self.app.app_context():
            rollups.roll_up()

    def refuse(self, outcome: str, times: int = 1, *, key: str = "first") -> None:
        """Count refused calls and flush the counts."""
        with self.app.app_context():
            for _ in range(times):
                caller = Principal("key", self.keys[key], self.id)
                status = 429 if outcome == "rate_limited" else 422
                request_recorder.record(caller, "POST", "/api/v1/messages/send", status)
            request_recorder.flush()

    def make_key(self, name: str, **options: Any) -> UUID:
        key_id, self.key_headers[name] = create_key(self.client, self.owner, name=name, **options)
        self.keys[name] = ids.parse_id("key", key_id)
        return self.keys[name]

    def use(
        self,
        quantity: int = 1,
        *,
        at: datetime | None = None,
        meter: str = "sms",
        key: str | None = None,
        is_late: bool = False,
        **details: Any,
    ) -> UsageRecord:
        """Append one event to the ledger.

        details: other attributes of the record, such as its properties
        """
        event_id = ids.new_id()
        event = UsageRecord(
            event_id,
            "messages.send",
            str(event_id),
            meter,
            quantity,
            at or clock.now(),
            self.keys[key] if key else None,
            **details,
        )
        sql, values = ledger.append_usage_statement(self.id, event, is_late=is_late)
        with self.transaction() as session:
            session.connection().exec_driver_sql(sql, values)
        return event

    def reverse(self, event: UsageRecord) -> None:
        """Reverse an event, as a failed message does."""
        with self.transaction() as session:
            session.execute(
                text(
                    append_sql(
                        f"{USAGE_COLUMNS}, api_key_id, reversal_of",
                        """SELECT organization_id, 'reversal', id::text, meter_code, -quantity, occurred_at,
                            billing_period_id, api_key_id, id, month FROM usage_events WHERE id = :id""",
                    )
                ),
                {"id": event.id},
            )

    def open_period(self, at: datetime) -> UUID:
        """Create the billing account and open the period that contains an instant."""
        with self.transaction() as session:
            periods.ensure_account(session, self.id)
            periods.ensure_period(session, self.id, at)
            period_id = session.scalar(
                text("SELECT id FROM billing_periods WHERE starts_at <= :at AND ends_at > :at"), {"at": at}
            )
        assert period_id is not None
        return UUID(str(period_id))

    def close_period(self, period_id: UUID) -> None:
        with self.app.app_context(), tenancy.system_session("billing.close") as session:
            session.execute(
                text("UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp() WHERE id = :id"),
                {"id": period_id},
            )

    def ledger_sum(self, meter: str = "sms") -> Decimal:
        with self.transaction() as session:
            return Decimal(
                session.scalar(
                    text("SELECT coalesce(sum(quantity), 0) FROM usage_events WHERE meter_code = :meter"),
                    {"meter": meter},
                )
            )

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        """The data of a successful response."""
        response = self.client.get(f"/api/v1{path}", query_string=query, headers=headers or self.owner.headers)
        assert response.status_code == 200, response.json
        return response.json["data"]


def sign_up_organization(
    client: FlaskClient,
    name: str = "Acme",
    email: str = "alice@acme.example",
    *,
    at: datetime | None = None,
) -> UsageOrganization:
    """Sign up through HTTP at the real time, because sessions expire by PostgreSQL's clock.

    at: time of creation of the organization, at which time is frozen afterwards
    """
    clock.freeze_time(None)
    owner = sign_up(client, email, name)
    organization = UsageOrganization(client, owner)
    if at is not None:
        with client.application.app_context(), tenancy.system_session("auth.register") as session:
            session.execute(
                text("UPDATE organizations SET created_at = :at WHERE id = :id"), {"at": at, "id": organization.id}
            )
        clock.freeze_time(at)
    return organization
