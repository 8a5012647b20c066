"""Events of providers: verified over their bytes and stored once; forged and malformed events are rejected."""

import threading
import time
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError

from saas_api.core.db import tenancy
from saas_api.payments import jobs
from saas_api.providers import mock_payments
from tests.support import paystack_server, stripe_server
from tests.support.payments import API, EVENTS, MOCK, PAYSTACK, STRIPE, PayingOrganization, inbox_events
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def test_signed_event_is_stored(context: Flask, client: FlaskClient) -> None:
    event = mock_payments.new_event("checkout.completed", "nobodys")
    response = client.post(EVENTS, data=event.body, headers={MOCK: event.signature})
    assert (response.status_code, response.json["data"]) == (200, {"status": "received"})
    assert [event.status for event in inbox_events()] == ["queued"]


@pytest.mark.parametrize("path", ["payment", "stripe", "paystack"])
def test_event_without_a_signature_is_rejected(context: Flask, client: FlaskClient, path: str) -> None:
    assert code(client.post(f"{API}/webhooks/{path}", data=b"{}")) == (401, "MISSING_SIGNATURE")
    assert inbox_events() == []


FORGERIES = [
    "",
    "t=1",
    "v1=00",
    "t=x,v1=00",
    "t=1=2=3,v1",
    "garbage",
    "t=99999999999999999999,v1=00",
    "\u00e9t\u00e9",
    "0" * 128,
]


@pytest.mark.parametrize("header", [STRIPE, PAYSTACK, MOCK])
@pytest.mark.parametrize("signature", FORGERIES)
def test_forged_event_is_a_401_and_not_stored(
    client: FlaskClient, context: Flask, stripe: StripeServer, paystack: PaystackServer, header: str, signature: str
) -> None:
    response = client.post(EVENTS, data=b'{"id": "evt_1"}', headers={header: signature})
    assert code(response) in {(401, "INVALID_SIGNATURE"), (401, "MISSING_SIGNATURE")}
    assert inbox_events() == []


def test_changed_body_does_not_match_its_signature(client: FlaskClient, context: Flask, stripe: StripeServer) -> None:
    body = stripe_server.event("checkout.session.completed", "cs_1")
    signature = stripe_server.sign(body)
    assert client.post(EVENTS, data=body + b" ", headers={STRIPE: signature}).status_code == 401
    other = stripe_server.sign(body, secret="whsec_other")
    assert client.post(EVENTS, data=body, headers={STRIPE: other}).status_code == 401
    assert client.post(f"{API}/webhooks/stripe", data=body, headers={STRIPE: signature}).status_code == 200


@pytest.mark.parametrize("seconds", [-400, 400])
def test_old_and_future_events_of_stripe_are_rejected(
    client: FlaskClient, context: Flask, stripe: StripeServer, seconds: int
) -> None:
    body = stripe_server.event("checkout.session.completed", "cs_1")
    signature = stripe_server.sign(body, at=time.time() + seconds)
    assert code(client.post(EVENTS, data=body, headers={STRIPE: signature})) == (401, "INVALID_SIGNATURE")


def test_event_of_an_unconfigured_provider_is_rejected(client: FlaskClient, context: Flask) -> None:
    body = stripe_server.event("checkout.session.completed", "cs_1")
    headers = {STRIPE: stripe_server.sign(body)}
    assert code(client.post(EVENTS, data=body, headers=headers)) == (401, "INVALID_SIGNATURE")


ODD = [
    b"[1]",
    b"null",
    b"{",
    b"\xff\xfe",
    b"",
    b"[" * 5000,
    b'{"id": 1, "type": "checkout.session.completed"}',
    b'{"id": "a\\u0000b", "type": "checkout.session.completed", "data": {}}',
    b'{"id": "evt_1", "type": "checkout.session.completed", "data": []}',
    b'{"id": "evt_1", "type": "checkout.session.completed", "data": {"object": {"id": 7}}}',
    b'{"id": "evt_1", "type": null}',
    orjson.dumps({"id": "e" * 300, "type": "x"}),
]


@pytest.mark.parametrize("body", ODD)
def test_malformed_signed_event_is_a_400_and_not_stored(
    client: FlaskClient, context: Flask, stripe: StripeServer, body: bytes
) -> None:
    response = client.post(
        EVENTS, data=body, headers={STRIPE: stripe_server.sign(body) if body != ODD[3] else bad(body)}
    )
    assert response.status_code in {400, 401}
    assert (response.status_code == 401) == (body == ODD[3])
    assert inbox_events() == []


def bad(body: bytes) -> str:
    """A signature for bytes that are not UTF-8, which the SDK of Stripe cannot sign."""
    return stripe_server.sign(body)


@pytest.mark.parametrize("body", [b"[1]", b"{", b"{}", b'{"event": "charge.success", "data": {"id": null}}'])
def test_malformed_event_of_paystack_is_a_400(
    client: FlaskClient, context: Flask, paystack: PaystackServer, body: bytes
) -> None:
    response = client.post(EVENTS, data=body, headers={PAYSTACK: paystack_server.sign(body)})
    assert code(response) == (400, "INVALID_REQUEST")


def test_event_of_at_most_256_kib_is_accepted(client: FlaskClient, context: Flask, paystack: PaystackServer) -> None:
    body = paystack_server.event("charge.success", "x")
    body += b" " * (262_144 - len(body))
    assert client.post(EVENTS, data=body, headers={PAYSTACK: paystack_server.sign(body)}).status_code == 200
    body += b" "
    response = client.post(EVENTS, data=body, headers={PAYSTACK: paystack_server.sign(body)})
    assert code(response) == (413, "BODY_TOO_LARGE")
    assert len(inbox_events()) == 1


def test_event_is_a_503_without_the_database(
    client: FlaskClient, context: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_place: str) -> None:
        raise OperationalError("INSERT", {}, Exception("connection refused"))

    event = mock_payments.new_event("checkout.completed", "x")
    with monkeypatch.context() as patch:
        patch.setattr(tenancy, "system_session", unavailable)
        response = client.post(EVENTS, data=event.body, headers={MOCK: event.signature})
    assert code(response) == (503, "SERVICE_UNAVAILABLE")
    assert "Retry-After" in response.headers
    assert client.post(EVENTS, data=event.body, headers={MOCK: event.signature}).status_code == 200


def test_hundred_repetitions_of_an_event_pay_once(app: Flask, acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    body = stripe_server.event("checkout.session.completed", reference)
    statuses: list[int] = []

    def send() -> None:
        client = app.test_client()
        headers = {STRIPE: stripe_server.sign(body)}
        statuses.extend(client.post(EVENTS, data=body, headers=headers).status_code for _ in range(25))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs.process_inbox()
    assert statuses == [200] * 100
    assert [(event.event_id, event.status) for event in inbox_events()] == [("evt_1", "processed")]
    assert (acme.invoice().state, acme.invoice().paid_minor, acme.wallet()) == ("paid", 9900, 0)
    assert acme.mails() == ["payment_received"]


def test_repeated_event_of_paystack_is_recognized_without_an_id(
    acme: PayingOrganization, paystack: PaystackServer
) -> None:
    reference = acme.begin("paystack")
    paystack.finish(reference)
    body = paystack_server.event("charge.success", reference, 77)
    for _ in range(3):
        assert acme.post(PAYSTACK, body, paystack_server.sign(body)) == 200
    jobs.process_inbox()
    assert [(event.event_id, event.status) for event in inbox_events()] == [("charge.success:77", "processed")]
    assert acme.invoice().state == "paid"


def test_events_of_other_types_are_ignored(acme: PayingOrganization, stripe: StripeServer) -> None:
    body = orjson.dumps({"id": "evt_9", "type": "acme.created", "data": {"object": {"id": "cus_1"}}})
    assert acme.post(STRIPE, body, stripe_server.sign(body)) == 200
    jobs.process_inbox()
    assert [event.status for event in inbox_events()] == ["ignored"]
    assert stripe.calls == []
