"""The verbs of API keys and their errors."""

from saas_api.api_keys.service.keys import (
    Created,
    KeyEnded,
    NoSuchKey,
    ScopeBeyondRole,
    change,
    create,
    get,
    revoke,
    withdraw,
)
from saas_api.api_keys.service.rotation import RotationInProgress, end_old, rotate
from saas_api.api_keys.service.secrets import InvalidApiKey, MissingApiKey, Secret, find_secret
from saas_api.api_keys.service.seen import touch, write_seen

__all__ = [
    "Created",
    "InvalidApiKey",
    "KeyEnded",
    "MissingApiKey",
    "NoSuchKey",
    "RotationInProgress",
    "ScopeBeyondRole",
    "Secret",
    "change",
    "create",
    "end_old",
    "find_secret",
    "get",
    "revoke",
    "rotate",
    "touch",
    "withdraw",
    "write_seen",
]
