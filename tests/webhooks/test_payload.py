"""Examples, schemas and signatures of payloads."""

import time
from datetime import UTC, datetime

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from saas_api.webhooks import event_types, payload

BODY = '{"id":"evt_1","data":{"name":"Zoë"}}'.encode()


@pytest.mark.parametrize("event_type", sorted(event_types.names()))
def test_example_of_an_event_type_matches_its_schema(event_type: str) -> None:
    entry = event_types.get_type(event_type)
    Draft202012Validator.check_schema(entry.schema)
    Draft202012Validator(entry.schema).validate(entry.example)
    assert entry.example["type"] == event_type
    assert entry.description.endswith(".")


def test_schema_rejects_another_type_and_a_missing_field() -> None:
    entry = event_types.get_type("invoice.paid")
    validator = Draft202012Validator(entry.schema)
    assert not validator.is_valid({**entry.example, "type": "invoice.voided"})
    data = dict(entry.example["data"])
    del data["total_amount"]
    assert not validator.is_valid({**entry.example, "data": data})


def test_signature_is_verified_by_the_standard_webhooks_library() -> None:
    secret, now = payload.generate_secret(), int(time.time())
    headers = payload.signature_headers([secret], "evt_1", now, BODY)
    assert Webhook(secret).verify(BODY.decode(), headers) == {"id": "evt_1", "data": {"name": "Zoë"}}
    signed = Webhook(secret).sign("evt_1", datetime.fromtimestamp(now, UTC), BODY.decode())
    assert headers["webhook-signature"] == signed


def test_headers_contain_a_signature_for_each_active_secret() -> None:
    old, new, now = payload.generate_secret(), payload.generate_secret(), int(time.time())
    headers = payload.signature_headers([new, old], "evt_1", now, BODY)
    for secret in (old, new):
        Webhook(secret).verify(BODY.decode(), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(payload.generate_secret()).verify(BODY.decode(), headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_changed_id_timestamp_or_body_invalidates_the_signature(changed: str) -> None:
    secret, now = payload.generate_secret(), int(time.time())
    headers = payload.signature_headers([secret], "evt_1", now, BODY)
    body = BODY.decode()
    if changed == "body":
        body = body.replace("evt_1", "evt_2")
    else:
        headers[changed] = str(now + 1) if changed == "webhook-timestamp" else "evt_2"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_generated_secrets_have_256_bits_and_differ() -> None:
    created = {payload.generate_secret() for _ in range(100)}
    assert len(created) == 100
    assert {(secret[:6], len(secret)) for secret in created} == {("whsec_", 50)}
