"""The mail's queue entry point."""

from saas_api.core.lease import drain as drain_table
from saas_api.mail import service as mail


def drain() -> None:
    """Hand over what is due, every organization in turn."""
    drain_table(mail.DRAIN, mail.due, mail.hand_over_some)
