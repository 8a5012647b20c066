"""The webhooks' queue entry points."""

from saas_api.webhooks import service as webhooks


def drain() -> None:
    """Deliver what is due, all endpoints side by side."""
    webhooks.deliver_due()


def disable_failing() -> dict[str, int]:
    """Disable endpoints that have failed for five days; hourly."""
    return {"disabled": webhooks.disable_failing()}


def purge() -> dict[str, int]:
    """Delete old events; daily."""
    return {"deleted": webhooks.purge()}
