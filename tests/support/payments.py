"""An organization that pays an invoice through the API, and the payment providers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import users
from saas_api.accounts.models import Operator
from saas_api.billing import period_close, periods
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs
from saas_api.providers import mock_payments
from tests.support import paystack_server, stripe_server
from tests.support.accounts import User, sign_in, sign_up
from tests.support.billing import BillingOrganization, day
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer

API = "/api/v1"
PAY = f"{API}/billing/initiate-payment"
EVENTS = f"{API}/webhooks/payment"
STRIPE, PAYSTACK, MOCK = "Stripe-Signature", "X-Paystack-Signature", "X-Mock-Signature"


@dataclass
class PayingOrganization(BillingOrganization):
    """An organization with one open invoice of 99.00, which its owner pays."""

    owner: User
    client: FlaskClient
    invoice_id: Any

    def initiate(self, provider: str | None = "mock", **changes: Any) -> Any:
        body = {"invoice_id": ids.format_id("inv", self.invoice_id), "provider": provider, **changes}
        return self.client.post(PAY, json=body, headers=self.owner.headers)

    def begin(self, provider: str = "mock") -> str:
        """Start a payment; returns the reference of the provider."""
        response = self.initiate(provider)
        assert response.status_code == 200, response.json
        return str(self.payment().provider_reference)

    def payment(self) -> Any:
        """The newest payment."""
        return self.rows("SELECT * FROM payments ORDER BY created_at DESC, id DESC LIMIT 1")[0]

    def invoice(self) -> Any:
        return self.rows("SELECT * FROM invoices ORDER BY serial LIMIT 1")[0]

    def wallet(self) -> int:
        return int(self.rows("SELECT coalesce(sum(remaining_minor), 0) AS minor FROM credit_grants")[0].minor)

    def mails(self) -> list[str]:
        """Templates of the mails about payments, the oldest first."""
        return mail_templates("payment", self.id)

    def post(self, header: str, body: bytes, signature: str) -> int:
        """Send an event as a provider does; returns the HTTP status."""
        return int(self.client.post(EVENTS, data=body, headers={header: signature}).status_code)

    def choose(self, reference: str, action: str) -> Any:
        """Submit the checkout page of the mock provider."""
        return self.client.post(f"/payments/mock/{reference}", data={"action": action})

    def send_event(self, reference: str) -> None:
        """Send a new event of the mock provider and process the inbox."""
        event = mock_payments.new_event("checkout.completed", reference)
        assert self.post(MOCK, event.body, event.signature) == 200
        jobs.process_inbox()


def mail_templates(beginning: str, organization_id: Any = None) -> list[str]:
    with tenancy.system_session("mail.deliver") as session:
        statement = sa.text("""SELECT template FROM mails WHERE starts_with(template, :beginning)
          AND organization_id IS NOT DISTINCT FROM :id ORDER BY id""")
        return list(session.scalars(statement, {"beginning": beginning, "id": organization_id}))


def inbox_events() -> list[Any]:
    """Rows of the inbox."""
    return system_rows("SELECT * FROM provider_events ORDER BY provider, event_id")


def system_rows(sql: str) -> list[Any]:
    with tenancy.system_session("payments.read") as session:
        result = session.execute(sa.text(sql))
        return list(result.all()) if result.returns_rows else []


def make_events_due() -> None:
    """Make every event in the inbox due now."""
    system_rows("UPDATE provider_events SET next_at = now() WHERE next_at IS NOT NULL")


def create_paying_organization(client: FlaskClient, name: str = "Acme") -> PayingOrganization:
    """Create an organization whose invoice for April is open since the first of May."""
    clock.freeze_time(day(1))
    user = sign_up(client, f"alice@{name.lower()}.example", name)
    organization = BillingOrganization(ids.parse_id("org", user.organization_id))
    with organization.transaction() as session:
        periods.ensure_account(session, organization.id)
    organization.switch("pro@1", clock.now())
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    clock.freeze_time(None)
    return PayingOrganization(organization.id, sign_in(client, user.email), client, organization.invoices()[0].id)


class IsolatedClient(FlaskClient):
    """A client whose requests have an application context of their own inside the context of the test."""

    def open(self, *arguments: Any, **options: Any) -> Any:
        with self.application.app_context():
            return super().open(*arguments, **options)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@pytest.fixture
def acme(context: Flask, client: FlaskClient) -> PayingOrganization:
    return create_paying_organization(client)


@pytest.fixture
def stripe(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """A configured server in place of Stripe."""
    server = StripeServer()
    with server.running():
        monkeypatch.setitem(app.config, "STRIPE_SECRET_KEY", stripe_server.SECRET_KEY)
        monkeypatch.setitem(app.config, "STRIPE_WEBHOOK_SECRET", stripe_server.WEBHOOK_SECRET)
        monkeypatch.setitem(app.config, "STRIPE_API_BASE", server.address)
        yield server


@pytest.fixture
def paystack(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[PaystackServer]:
    """A configured server in place of Paystack."""
    server = PaystackServer()
    with server.running():
        monkeypatch.setitem(app.config, "PAYSTACK_SECRET_KEY", paystack_server.SECRET_KEY)
        monkeypatch.setitem(app.config, "PAYSTACK_API_BASE", server.address)
        yield server


@pytest.fixture
def olga(client: FlaskClient, acme: PayingOrganization) -> None:
    """An operator, who receives alerts."""
    with tenancy.system_session("auth.register") as session:
        user = users.create_user(session, "olga@platform.example", "correct horse battery", "Olga")
        session.add(Operator(user_id=user.id, role="admin"))


def payment_amounts(acme: PayingOrganization) -> tuple[str, int, int, int]:
    payment = acme.payment()
    return payment.state, payment.captured_minor, payment.allocated_minor, payment.excess_minor


def stripe_event(acme: PayingOrganization, reference: str, kind: str = "completed", event_id: str = "evt_1") -> None:
    body = stripe_server.event(f"checkout.session.{kind}", reference, event_id)
    assert acme.post(STRIPE, body, stripe_server.sign(body)) == 200
    jobs.process_inbox()
