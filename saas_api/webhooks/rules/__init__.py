"""Pure rules of webhooks: what an event looks like, how it is signed, and the catalogue of what there is."""

from saas_api.webhooks.rules.catalogue import CATALOGUE, ONLY_BY_NAME, TEST, EventType
from saas_api.webhooks.rules.envelope import LARGEST_BYTES, example, payload, thin, thin_payload
from saas_api.webhooks.rules.schedule import LAST_TRY, POISONED_AFTER, asked_seconds, retry_seconds
from saas_api.webhooks.rules.signing import headers, new_secret, sign

__all__ = [
    "CATALOGUE",
    "LARGEST_BYTES",
    "LAST_TRY",
    "ONLY_BY_NAME",
    "POISONED_AFTER",
    "TEST",
    "EventType",
    "asked_seconds",
    "example",
    "headers",
    "new_secret",
    "payload",
    "retry_seconds",
    "sign",
    "thin",
    "thin_payload",
]
