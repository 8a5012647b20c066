"""A company as the tests of usage need it: signed up through HTTP, with keys, and a ledger to write to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.core import clock, tenancy
from saas_api.core.access import Principal
from saas_api.core.ids import new_id, read_id
from saas_api.usage import service as usage
from saas_api.usage.rules import Usage


@dataclass
class Company:
    """An organization, its owner's headers, and its keys by name."""

    client: FlaskClient
    id: UUID
    owner: dict[str, str]
    keys: dict[str, UUID] = field(default_factory=dict)
    key_headers: dict[str, dict[str, str]] = field(default_factory=dict)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction of this company, in a context that no request shares."""
        with self.client.application.app_context(), tenancy.transaction(self.id) as session:
            yield session

    def roll_up(self) -> None:
        with self.client.application.app_context():
            usage.roll_up()

    def refuse(self, outcome: str, times: int = 1, *, key: str = "first") -> None:
        """Count refused calls, and write the counts."""
        with self.client.application.app_context():
            for _ in range(times):
                caller = Principal("key", self.keys[key], self.id)
                usage.count_refusal(caller, "/api/v1/messages/send", "POST", outcome)
            usage.write_refusals()

    def make_key(self, name: str, **options: Any) -> UUID:
        answer = self.client.post("/api/v1/keys", json={"name": name, **options}, headers=self.owner)
        assert answer.status_code == 201, answer.json
        self.keys[name] = read_id("key", answer.json["data"]["id"])
        self.key_headers[name] = {"X-API-Key": answer.json["data"]["key"]}
        return self.keys[name]

    def use(
        self,
        quantity: int = 1,
        *,
        at: datetime | None = None,
        meter: str = "sms",
        key: str | None = None,
        is_late: bool = False,
    ) -> Usage:
        """Put one event into the ledger."""
        event_id = new_id()
        event = Usage(
            event_id,
            "messages.send",
            str(event_id),
            meter,
            quantity,
            at or clock.now(),
            self.keys[key] if key else None,
        )
        sql, values = usage.append_statement(self.id, event, is_late=is_late)
        with self.transaction() as session:
            session.connection().exec_driver_sql(sql, values)
        return event

    def reverse(self, event: Usage) -> None:
        """Take an event back, as the end of a failed message does."""
        with self.transaction() as session:
            session.execute(
                text("""INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity,
                    occurred_at, api_key_id, billing_period_id, reversal_of)
                  SELECT organization_id, gen_random_uuid(), 'reversal', id::text, meter_code, -quantity, occurred_at,
                    api_key_id, billing_period_id, id FROM usage_events WHERE id = :id"""),
                {"id": event.id},
            )

    def open_period(self, at: datetime) -> UUID:
        """The account, and the period that contains an instant."""
        with self.transaction() as session:
            billing.ensure_account(session, self.id)
            billing.ensure_period(session, self.id, at)
            period_id = session.scalar(
                text("SELECT id FROM billing_periods WHERE starts_at <= :at AND ends_at > :at"), {"at": at}
            )
        assert period_id is not None
        return UUID(str(period_id))

    def close_period(self, period_id: UUID) -> None:
        with self.client.application.app_context(), tenancy.as_system("billing.close") as session:
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
        """The data of a successful answer."""
        answer = self.client.get(f"/api/v1{path}", query_string=query, headers=headers or self.owner)
        assert answer.status_code == 200, answer.json
        return answer.json["data"]


def sign_up(
    client: FlaskClient,
    name: str = "Acme",
    email: str = "alice@acme.example",
    *,
    at: datetime | None = None,
) -> Company:
    """Sign up through HTTP, at the present since sessions live by PostgreSQL's clock.

    at: the company says it began then, and the clock stands there
    """
    clock.travel_to(None)
    answer = client.post(
        "/api/v1/auth/register",
        json={"organization_name": name, "email": email, "password": "correct horse battery"},
    )
    assert answer.status_code == 201, answer.json
    data = answer.json["data"]
    company = Company(client, read_id("org", data["organization"]["id"]), {"Authorization": f"Bearer {data['token']}"})
    if at is not None:
        with client.application.app_context(), tenancy.as_system("auth.register") as session:
            session.execute(
                text("UPDATE organizations SET created_at = :at WHERE id = :id"), {"at": at, "id": company.id}
            )
        clock.travel_to(at)
    return company
