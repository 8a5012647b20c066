"""Verifies webhooks, which are signed as Standard Webhooks specifies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Union

from saas_api_client.errors import WebhookVerificationError

TOLERANCE_SECONDS = 300


def verify_webhook(secret: Union[str, Iterable[str]], headers: Mapping[str, str], body: Union[bytes, str]) -> Any:
    """Return the event of a webhook.

    secret: `whsec_...` of the endpoint, or several while you replace one
    headers: of the request; upper and lower case do not matter
    body: as it was received, before any parsing
    raises: WebhookVerificationError unless it was signed with the secret in the last five minutes
    """
    values = {name.lower(): value for name, value in headers.items()}
    event_id, sent_at = values.get("webhook-id", ""), values.get("webhook-timestamp", "")
    raw = body.encode() if isinstance(body, str) else body
    if not re.fullmatch(r"[0-9]{1,15}", sent_at) or abs(time.time() - int(sent_at)) > TOLERANCE_SECONDS:
        raise WebhookVerificationError("The request is too old, or from the future.")
    signed = f"{event_id}.{sent_at}.".encode() + raw
    secrets = [secret] if isinstance(secret, str) else secret
    expected = [_signature(one, signed) for one in secrets]
    given = values.get("webhook-signature", "").encode("utf-8", "replace").split()
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given):
        raise WebhookVerificationError("The request is not signed with this secret.")
    return json.loads(raw)


def _signature(secret: str, signed: bytes) -> bytes:
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error as cause:
        raise WebhookVerificationError("The secret is not base64.") from cause
    return b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
