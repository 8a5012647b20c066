"""The messages' queue entry point."""

from saas_api.core.lease import drain as drain_table
from saas_api.messages import service as messages


def drain() -> None:
    """Deliver what is due, every organization in turn."""
    drain_table(messages.DRAIN, messages.due, messages.deliver_some)
