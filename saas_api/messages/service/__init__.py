"""The verbs of messages: accept, show, deliver."""

from saas_api.messages.service.acceptance import DRAIN, NoSuchMessage, accept, get, units_of
from saas_api.messages.service.delivery import deliver_some, due

__all__ = ["DRAIN", "NoSuchMessage", "accept", "deliver_some", "due", "get", "units_of"]
