"""The example of a spend cap in docs/billing.md, through the API: what is sent, accepted, refused and billed."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import periods, subscriptions
from saas_api.core import clock, ids
from tests.support.accounts import Person, make_key
from tests.support.billing import Company
from tests.support.billing_actions import close, system
from tests.support.billing_examples import Step, minor, stories

EXAMPLE = stories()["23"]
PER_SEGMENT = 153
ANSWERS = {"accepted": 202, "refused": 402}


@pytest.fixture
def company(app: Flask, alice: Person) -> Company:
    """Alice's company as if it had signed up when the example begins; people and keys live in real time."""
    company = Company(ids.parse_id("org", alice.organization_id))
    with app.app_context(), system() as session:
        founded = text("UPDATE organizations SET created_at = :at WHERE id = :id")
        session.execute(founded, {"at": EXAMPLE[0].at, "id": company.id})
    return company


@pytest.fixture
def send(client: FlaskClient, alice: Person) -> Callable[[Step], Any]:
    key = make_key(client, alice)

    def run(step: Step) -> Any:
        _, quantity, what = step.act.split()
        messages = {
            "sms": {"to": "+2348012345678", "type": "sms", "message": "x" * (PER_SEGMENT * int(quantity))},
            "e-mails": {"to": "bob@acme.example", "type": "email", "subject": "Hello", "message": "Hello"},
        }
        return client.post("/api/v1/messages/send", json=messages[what], headers=key)

    return run


def test_call_beyond_the_spend_cap_is_rejected(
    app: Flask, client: FlaskClient, alice: Person, company: Company, send: Callable[[Step], Any]
) -> None:
    sign_up, cap, used, *sent, closing = EXAMPLE
    clock.freeze_time(sign_up.at)
    with app.app_context(), company.transaction() as session:
        periods.ensure_account(session, company.id)
        subscriptions.change_plan(session, company.id, sign_up.act.split()[-1], "now", SYSTEM_ACTOR)
    clock.freeze_time(cap.at)
    body = {"amount": cap.act.split()[-1], "action": "block"}
    assert client.put("/api/v1/billing/spend-cap", json=body, headers=alice.headers).status_code == 200
    with app.app_context():
        company.use(int(used.act.split()[2]))
    for step in sent:
        clock.freeze_time(step.at)
        answer = send(step)
        assert (step.act, answer.status_code) == (step.act, ANSWERS[step.books[0]])
        if answer.status_code == 402:
            assert answer.json["error"]["code"] == "SPEND_CAP_REACHED"
    with app.app_context():
        invoice = close(company, closing.at)
        lines = company.lines()
    base, sms, total = (minor(fact.split()[-1]) for fact in closing.books)
    assert lines == {"base:starter@1": base, "usage:starter@1:sms": sms}
    assert invoice.total_minor == total
