"""The spend cap example of docs/billing.md, through the API."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import periods, subscriptions
from saas_api.core import clock, ids
from tests.support.accounts import User, make_key
from tests.support.billing import BillingOrganization
from tests.support.billing_actions import close_periods, system_session
from tests.support.billing_examples import Step, parse_cents, parse_count, read_examples

EXAMPLE = read_examples()["23"]
PER_SEGMENT = 153
STATUSES = {"accepted": 202, "refused": 402}


@pytest.fixture
def organization(app: Flask, alice: User) -> BillingOrganization:
    """Alice's organization as if she had signed up when the example begins; her session expires by the real time."""
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    with app.app_context(), system_session() as session:
        set_created_at = text("UPDATE organizations SET created_at = :at WHERE id = :id")
        session.execute(set_created_at, {"at": EXAMPLE[0].at, "id": organization.id})
    return organization


@pytest.fixture
def send(client: FlaskClient, alice: User) -> Callable[[Step], Any]:
    key = make_key(client, alice)

    def run(step: Step) -> Any:
        _, quantity, unit = step.action.split()
        messages = {
            "sms": {"to": "+2348012345678", "type": "sms", "message": "x" * (PER_SEGMENT * int(quantity))},
            "emails": {"to": "bob@acme.example", "type": "email", "subject": "Hello", "message": "Hello"},
        }
        return client.post("/api/v1/messages/send", json=messages[unit], headers=key)

    return run


def test_call_beyond_the_spend_cap_is_rejected(
    app: Flask, client: FlaskClient, alice: User, organization: BillingOrganization, send: Callable[[Step], Any]
) -> None:
    sign_up, cap, used, *sent, closing = EXAMPLE
    clock.freeze_time(sign_up.at)
    with app.app_context(), organization.transaction() as session:
        periods.ensure_account(session, organization.id)
        subscriptions.change_plan(session, organization.id, sign_up.action.split()[-1], "now", SYSTEM_ACTOR)
    clock.freeze_time(cap.at)
    body = {"amount": cap.action.split()[-1], "action": "block"}
    assert client.put("/api/v1/billing/spend-cap", json=body, headers=alice.headers).status_code == 200
    with app.app_context():
        for quantity, meter in re.findall(r"([\d,]+) (sms|email)", used.action):
            organization.use(parse_count(quantity), meter)
    for step in sent:
        clock.freeze_time(step.at)
        response = send(step)
        assert (step.action, response.status_code) == (step.action, STATUSES[step.result[0]])
        if response.status_code == 402:
            assert response.json["error"]["code"] == "SPEND_CAP_REACHED"
    with app.app_context():
        invoice = close_periods(organization, closing.at)
        lines = organization.lines()
    base, sms, email, total = (parse_cents(fact.split()[-1]) for fact in closing.result)
    assert lines == {"base:starter@1": base, "usage:starter@1:sms": sms, "usage:starter@1:email": email}
    assert invoice.total_minor == total
