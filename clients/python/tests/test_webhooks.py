"""The client verifies what the platform signs."""

import json
import time
from typing import Any

import pytest
from standardwebhooks import Webhook

from saas_api_client import WebhookVerificationError, verify_webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"id": "evt_1", "type": "invoice.paid", "data": {"amount": "29.00"}}'


def signed(secret: str = SECRET, age_seconds: int = 0, body: bytes = BODY) -> dict[str, str]:
    from datetime import UTC, datetime

    at = int(time.time()) - age_seconds
    signature = Webhook(secret).sign("evt_1", datetime.fromtimestamp(at, UTC), body.decode())
    return {"Webhook-Id": "evt_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signature}


def test_signed_webhook_is_returned_as_an_event() -> None:
    assert verify_webhook(SECRET, signed(), BODY) == json.loads(BODY)


def test_either_secret_verifies_during_a_rotation() -> None:
    new = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    headers = signed()
    headers["Webhook-Signature"] = f"{signed(new)['Webhook-Signature']} {headers['Webhook-Signature']}"
    assert verify_webhook(new, headers, BODY)
    assert verify_webhook(["whsec_AAAA", SECRET], signed(), BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"Webhook-Id": "evt_2"},
        {"Webhook-Signature": ""},
        {"Webhook-Signature": "v1,Zm9yZ2Vk"},
        {"Webhook-Signature": "v1,ünknown"},
        {"Webhook-Timestamp": "soon"},
        {"Webhook-Timestamp": "9" * 5000},
    ],
)
def test_webhook_with_another_header_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WebhookVerificationError):
        verify_webhook(SECRET, {**signed(), **change}, BODY)


def test_webhook_is_refused_with_another_body_secret_or_after_five_minutes() -> None:
    with pytest.raises(WebhookVerificationError, match="not signed"):
        verify_webhook(SECRET, signed(), BODY + b" ")
    with pytest.raises(WebhookVerificationError, match="not signed"):
        verify_webhook("whsec_AAAA", signed(), BODY)
    with pytest.raises(WebhookVerificationError, match="too old"):
        verify_webhook(SECRET, signed(age_seconds=301), BODY)
    with pytest.raises(WebhookVerificationError, match="base64"):
        verify_webhook("whsec_?", signed(), BODY)
