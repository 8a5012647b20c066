"""Usage events are refused for no limit; quota and spend cap stop what comes next."""

from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import service_terms
from saas_api.billing.service_terms import LimitOverrides
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import User, make_key
from tests.support.messages import SEND, SMS, send_message
from tests.support.usage_events import EventSender, make_event


@pytest.fixture
def sender(client: FlaskClient) -> EventSender:
    """A service that reports messages which it has sent itself."""
    return EventSender(client)


def refusal(sender: EventSender, key: dict[str, str]) -> str:
    """Code with which the next message is refused."""
    response = sender.client.post(SEND, json=SMS, headers=key)
    assert response.status_code >= 400, response.json
    return str(response.json["error"]["code"])


def test_events_use_up_a_quota_and_are_not_refused_by_it(app: Flask, sender: EventSender, alice: User) -> None:
    with app.app_context(), tenancy.system_session("billing.catalogue") as session:
        overrides = LimitOverrides(quotas={"sms": Decimal(10)})
        organization_id = ids.parse_id("org", alice.organization_id)
        service_terms.set_overrides(session, organization_id, overrides, SYSTEM_ACTOR, "a reason that is long")
    key = make_key(sender.client, alice)
    send_message(sender.client, key)
    for _ in range(2):  # the first fills the quota, the second exceeds it
        event = make_event(alice.organization_id, type="sms", data={"quantity": 9})
        assert sender.send(event)["accepted"] == 1
        assert refusal(sender, key) == "QUOTA_EXCEEDED"


def test_events_use_up_a_spend_cap_and_are_not_refused_by_it(sender: EventSender, alice: User) -> None:
    assert alice.call("PUT", "/billing/spend-cap", amount="1.00", action="block")[0] == 200
    key = make_key(sender.client, alice)
    send_message(sender.client, key)
    events = [make_event(alice.organization_id, type="sms", data={"quantity": 500}) for _ in range(3)]
    assert sender.send(*events)["accepted"] == 3
    assert refusal(sender, key) == "SPEND_CAP_REACHED"
