"""Acme on a plan that bills every SMS at 0.01, and a service that holds SMS for it."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import alerts, periods, service_terms
from saas_api.billing.service_terms import LimitOverrides
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.metering import jobs
from tests.support.accounts import Headers, User, create_key
from tests.support.billing import BillingOrganization, publish_metered
from tests.support.organizations import Organization
from tests.support.services import create_service, service_headers

HOLDS = "/api/v1/holds"


@dataclass
class HoldingOrganization(Organization):
    """An organization with a live key, and the service that holds usage for it."""

    service: Headers
    key_id: str
    key: str

    def post(self, path: str, body: Any, service: Headers | None = None) -> tuple[int, Any]:
        """Status, and the data of the response or its error."""
        client = self.app.test_client()
        response = client.post(f"{HOLDS}{path}", json=body, headers=service or self.service)
        assert response.json is not None
        return response.status_code, response.json.get("data") or response.json["error"]

    def request(self, quantity: Any = 1, **changes: Any) -> tuple[int, Any]:
        """Ask for a hold of SMS: status, and its data or the error."""
        caller = {} if "organization_id" in changes else {"key": self.key}
        return self.post("", {**caller, "meter": "sms", "quantity": quantity, **changes})

    def hold(self, quantity: Any = 1, **changes: Any) -> str:
        """The id of a new hold."""
        status, data = self.request(quantity, **changes)
        assert status == 201, data
        return str(data["hold_id"])

    def refusal(self, quantity: Any = 1, **changes: Any) -> tuple[int, str]:
        """Status and code of a refused hold."""
        status, error = self.request(quantity, **changes)
        return status, error["code"]

    def verify(self, **body: Any) -> Any:
        """The answer to the verification of the key with SMS."""
        question = {"key": self.key, "meter": "sms", **body}
        return self.app.test_client().post("/api/v1/keys/verify", json=question, headers=self.service).json["data"]

    def settle(self, hold_id: str, quantity: Any, **changes: Any) -> Any:
        """The settled hold."""
        status, data = self.post(f"/{hold_id}/settle", {"quantity": quantity, **changes})
        assert status == 200, data
        return data

    def show(self, hold_id: str) -> Any:
        return self.app.test_client().get(f"{HOLDS}/{hold_id}", headers=self.service).json["data"]

    def set_quota(self, quantity: int, meter: str = "sms") -> None:
        """Override the quota of a meter, and the rate limit, so that only the quota counts."""
        limits = LimitOverrides(100_000, {meter: Decimal(quantity)})
        with self.app.app_context(), tenancy.system_session("billing.account") as session:
            service_terms.set_overrides(session, self.id, limits, SYSTEM_ACTOR, "a test of holds")

    def set_cap(self, cents: int) -> None:
        """Set a spend cap that leaves this many cents for usage."""
        amount = f"{(int(self.spend_cap()['base'].replace('.', '')) + cents) / 100:.2f}"
        status, data = self.owner.call("PUT", "/billing/spend-cap", amount=amount, action="block")
        assert status == 200, data

    def spend_cap(self) -> Any:
        """The spend cap with the spend of the current period."""
        return self.client.get("/api/v1/billing/alerts", headers=self.owner.headers).json["data"]["spend_cap"]

    def pass_time(self, hold_id: str) -> None:
        """Let the time of a hold be over."""
        times = "created_at = now() - interval '2 hours', expires_at = now() - interval '1 s'"
        self.execute(f"UPDATE holds SET {times} WHERE id = :id", id=ids.parse_id("hld", hold_id))

    def sweep(self) -> None:
        with self.app.app_context():
            jobs.expire_holds()

    def reconcile(self, runs: int = 2) -> None:
        """Run the reconciliation of the counters; it lowers a counter by what two runs in a row have found."""
        with self.app.app_context():
            for _ in range(runs):
                alerts.evaluate_alerts(clock.now())

    def usage(self) -> list[Any]:
        """Source, idempotency key, quantity and endpoint of each usage event."""
        sql = "SELECT source, idempotency_key, quantity, endpoint FROM usage_events ORDER BY recorded_at, id"
        return [tuple(row) for row in self.rows(sql)]


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: User) -> HoldingOrganization:
    """Acme on `metered` since the first of the current month, with a key and a service."""
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    with app.app_context():
        put_on_metered(organization)
    key_id, headers = create_key(client, alice)
    service = service_headers(create_service(app, "completions"))
    return HoldingOrganization(client, alice, service, key_id, headers["X-API-Key"])


def put_on_metered(organization: BillingOrganization) -> None:
    """Put an organization on `metered` since the first of the month, so that on every day it owes the whole base."""
    with tenancy.system_session("billing.account") as session:
        sql = "UPDATE organizations SET created_at = date_trunc('month', now(), 'UTC') WHERE id = :id"
        session.execute(text(sql), {"id": organization.id})
    with organization.transaction() as session:
        periods.ensure_account(session, organization.id)
        started = session.scalar(text("SELECT started_at FROM subscriptions"))
    organization.switch(publish_metered(), started)
    with tenancy.system_session("billing.account") as session:
        sql = "UPDATE organizations SET generation = generation + 1 WHERE id = :id"
        session.execute(text(sql), {"id": organization.id})


def read_counters(cache: redis.Redis) -> dict[str, int]:
    """The counters of limits in Redis by name."""
    names = [name for name in cache.scan_iter("*:q:*") if not name.endswith(b":over")]
    return {name.decode().rpartition(":q:")[2].partition(":")[2]: int(cache.get(name) or 0) for name in names}
