"""The verbs of messages: accept, try out, show, cancel, deliver."""

from saas_api.messages.service.acceptance import DRAIN, NoSuchMessage, accept, get, units_of
from saas_api.messages.service.canceling import NotCancelable, cancel
from saas_api.messages.service.delivery import deliver_some, due
from saas_api.messages.service.trying import SendingStopped, try_out

__all__ = [
    "DRAIN",
    "NoSuchMessage",
    "NotCancelable",
    "SendingStopped",
    "accept",
    "cancel",
    "deliver_some",
    "due",
    "get",
    "try_out",
    "units_of",
]
