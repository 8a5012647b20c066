"""Verbs of payments: begin one, take a provider's event, settle, look after what is undecided, and pursue."""

from saas_api.payments.service.inbox import (
    INBOX,
    InvalidSignature,
    MissingSignature,
    due,
    receive,
    work_off_some,
)
from saas_api.payments.service.initiating import (
    AlreadyPaid,
    AmountTooSmall,
    InvalidProvider,
    InvoiceNotPayable,
    PaymentInFlight,
    ProviderUnavailable,
    Wanted,
    initiate,
    offered_for,
)
from saas_api.payments.service.janitor import Rounds, look_after
from saas_api.payments.service.refunds import refund_due
from saas_api.payments.service.resolving import (
    EventNotQuarantined,
    NothingToAsk,
    PaymentNotQuarantined,
    ProviderSilent,
    ask_again,
    resolve,
    resolve_event,
    take_up_again,
)
from saas_api.payments.service.settlement import Offline, book_offline, look, settle

__all__ = [
    "INBOX",
    "AlreadyPaid",
    "AmountTooSmall",
    "EventNotQuarantined",
    "InvalidProvider",
    "InvalidSignature",
    "InvoiceNotPayable",
    "MissingSignature",
    "NothingToAsk",
    "Offline",
    "PaymentInFlight",
    "PaymentNotQuarantined",
    "ProviderSilent",
    "ProviderUnavailable",
    "Rounds",
    "Wanted",
    "ask_again",
    "book_offline",
    "due",
    "initiate",
    "look",
    "look_after",
    "offered_for",
    "receive",
    "refund_due",
    "resolve",
    "resolve_event",
    "settle",
    "take_up_again",
    "work_off_some",
]
