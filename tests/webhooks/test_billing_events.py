"""Events of billing and payments match the JSON Schema of their type, and every registered type is published."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import alerts, credit_notes, invoice_lifecycle, organization_closing, period_close, periods
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import dunning, jobs, payments
from saas_api.payments.payments import OfflinePayment
from saas_api.webhooks import event_types
from saas_api.webhooks.payload import MAX_PAYLOAD_BYTES
from tests.support.accounts import make_key, sign_up
from tests.support.billing import BillingOrganization
from tests.support.payments import IsolatedClient, PayingOrganization
from tests.webhooks.test_published_events import PUBLISHED_TYPES

pytestmark = pytest.mark.usefixtures("context")
OPERATOR = OperatorContext(SYSTEM_ACTOR, "ticket 4711")


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """A client whose requests have an application context of their own."""
    return IsolatedClient(app, app.response_class)


def call(acme: PayingOrganization, method: str, path: str, body: Any, status: int = 200) -> Any:
    response: Any = acme.client.open(f"/api/v1{path}", method=method, json=body, headers=acme.owner.headers)
    assert response.status_code == status, response.json
    return response.json["data"]


def sign_up_with_endpoint(visitor: FlaskClient) -> PayingOrganization:
    """Sign up and create an endpoint."""
    user = sign_up(visitor, "alice@acme.example", "Acme")
    acme = PayingOrganization(ids.parse_id("org", user.organization_id), user, visitor, None)
    call(acme, "POST", "/webhooks/endpoints", {"url": "http://127.0.0.1:9/hook"}, 201)
    return acme


def count_events(organization: BillingOrganization) -> Counter[str]:
    """Validate every event against its schema, and count them by type."""
    counts: Counter[str] = Counter()
    for row in organization.rows("SELECT type, payload FROM events ORDER BY created_at, id"):
        payload = json.loads(row.payload)
        Draft202012Validator(event_types.get_type(row.type).schema).validate(payload)
        assert len(row.payload.encode()) <= MAX_PAYLOAD_BYTES
        counts[row.type] += 1
    return counts


def invoiced(visitor: FlaskClient) -> PayingOrganization:
    """An organization on the plan pro with an invoice of the first period."""
    acme = sign_up_with_endpoint(visitor)
    call(acme, "POST", "/billing/upgrade", {"plan": "pro", "when": "now"})
    [period] = acme.rows("SELECT ends_at FROM billing_periods")
    clock.freeze_time(period.ends_at + timedelta(hours=2))
    periods.ensure_accounts(clock.now(), acme.id)
    assert not period_close.close_due(clock.now(), acme.id).failed
    acme.invoice_id = acme.invoices()[0].id
    return acme


def subscribed(visitor: FlaskClient) -> BillingOrganization:
    acme = sign_up_with_endpoint(visitor)
    for _ in range(2):
        call(acme, "GET", "/usage", None)
    return acme


def paid_after_decline(visitor: FlaskClient) -> BillingOrganization:
    acme = invoiced(visitor)
    for action in ("decline", "pay"):
        acme.choose(acme.begin(), action)
        for _ in range(2):
            jobs.process_inbox()
    return acme


def credited_and_refunded(visitor: FlaskClient) -> BillingOrganization:
    acme = invoiced(visitor)
    acme.choose(acme.begin(), "pay")
    jobs.process_inbox()
    for minor in (500, 700):
        with tenancy.system_session("admin.act") as session:
            credit = CreditNoteInput("service_issue", amount_minor=minor, is_refund=True)
            credit_notes.create_credit_note(session, acme.id, acme.invoice_id, credit, OPERATOR)
        for _ in range(2):
            jobs.reconcile()
    return acme


def voided(visitor: FlaskClient) -> BillingOrganization:
    acme = invoiced(visitor)
    with tenancy.system_session("admin.act") as session:
        invoice_lifecycle.void_invoice(session, acme.id, acme.invoice_id, OPERATOR)
    return acme


def written_off(visitor: FlaskClient) -> BillingOrganization:
    """The invoice is written off, then paid by bank transfer."""
    acme = invoiced(visitor)
    due_at = acme.invoice().due_at
    for day in (0, 3, 5, 7, 10, 14, 30):
        clock.freeze_time(due_at + timedelta(days=day))
        for _ in range(2):
            assert dunning.run_dunning(clock.now()).failed == []
    money = OfflinePayment(acme.invoice().due_minor, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    return acme


def closed(visitor: FlaskClient) -> BillingOrganization:
    """The organization is closed with its final invoice."""
    acme = sign_up_with_endpoint(visitor)
    organization_closing.close_organization(acme.id, SYSTEM_ACTOR)
    return acme


def alerted(visitor: FlaskClient) -> BillingOrganization:
    """Usage passes alerts on included usage, on a quantity and on cost."""
    acme = sign_up_with_endpoint(visitor)
    rules = [
        {"subject": "percent_of_included", "meter": "sms", "threshold": "80"},
        {"subject": "quantity", "meter": "sms", "threshold": "500.5"},
        {"subject": "spend", "threshold": "0.01"},
    ]
    call(acme, "PUT", "/billing/alerts", {"alerts": rules})
    acme.use(1100)
    for _ in range(2):
        alerts.evaluate_alerts(clock.now())
    return acme


def capped(visitor: FlaskClient) -> BillingOrganization:
    """The spend cap blocks every message, after its alerts."""
    acme = sign_up_with_endpoint(visitor)
    call(acme, "PUT", "/billing/spend-cap", {"amount": "0.10", "action": "block"})
    acme.use(1009)  # 1,000 are included, and the others cost 0.09
    key = make_key(visitor, acme.owner)
    sms = {"to": "+15005550006", "type": "sms", "message": "x" * 400}
    responses = [visitor.post("/api/v1/messages/send", json=sms, headers=key) for _ in range(3)]
    assert [response.status_code for response in responses] == [402] * 3
    return acme


INVOICED = {"subscription.created": 1, "subscription.updated": 1, "invoice.finalized": 1}
CASES: list[tuple[Callable[[FlaskClient], BillingOrganization], dict[str, int]]] = [
    (subscribed, {"subscription.created": 1}),
    (
        paid_after_decline,
        {
            **INVOICED,
            "payment.failed": 1,
            "invoice.payment_failed": 1,
            "payment.succeeded": 1,
            "invoice.paid": 1,
        },
    ),
    (credited_and_refunded, {**INVOICED, "payment.succeeded": 1, "invoice.paid": 1, "payment.refunded": 2}),
    (voided, {**INVOICED, "invoice.voided": 1}),
    (
        written_off,
        {
            **INVOICED,
            "subscription.updated": 2,
            "invoice.overdue": 1,
            "organization.restricted": 1,
            "organization.suspended": 1,
            "invoice.marked_uncollectible": 1,
            "payment.succeeded": 1,
            "invoice.paid": 1,
            "organization.resumed": 1,
        },
    ),
    (
        closed,
        {"subscription.created": 1, "organization.closed": 1, "invoice.finalized": 1, "invoice.paid": 1},
    ),
    (alerted, {"subscription.created": 1, "usage.threshold_reached": 3}),
    (
        capped,
        {
            "subscription.created": 1,
            "spend_cap.reached": 1,
            "usage.threshold_reached": 3,
            "api_key.created": 1,
        },
    ),
]


@pytest.mark.parametrize(("scenario", "expected"), CASES, ids=[scenario.__name__ for scenario, _ in CASES])
def test_each_change_publishes_one_event_that_matches_its_schema(
    visitor: FlaskClient, scenario: Callable[[FlaskClient], BillingOrganization], expected: dict[str, int]
) -> None:
    assert count_events(scenario(visitor)) == expected


def test_every_registered_event_type_is_published() -> None:
    billing_types = {event_type for _, expected in CASES for event_type in expected}
    metering_types = {"hold.expired"}  # tests/metering/test_holds.py
    assert billing_types | metering_types | PUBLISHED_TYPES == set(event_types.names())
