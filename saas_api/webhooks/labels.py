"""What pages call the results of attempts and deliveries."""

from http.client import responses

from saas_api.core import formatting

_REASONS = {
    "timeout": "Timed out",
    "connection": "Connection failed",
    "blocked": "Address not allowed",
    "interrupted": "Interrupted",
    "poisoned": "Interrupted too often",
    "started": "In progress",
}


def response_label(status_code: int | None, reason: str | None) -> str:
    """Return the response of an endpoint, such as "503 Service Unavailable", or why there is none.

    reason: outcome of the attempt, or error code of the delivery
    """
    if status_code:
        return f"{status_code} {responses.get(status_code, '')}".rstrip()
    return _REASONS.get(reason or "", formatting.EMPTY_VALUE)
