"""The verbs of messages: accept, show, cancel, deliver."""

from saas_api.messages.service.acceptance import DRAIN, NoSuchMessage, accept, get, units_of
from saas_api.messages.service.canceling import NotCancelable, cancel
from saas_api.messages.service.delivery import deliver_some, due

__all__ = ["DRAIN", "NoSuchMessage", "NotCancelable", "accept", "cancel", "deliver_some", "due", "get", "units_of"]
