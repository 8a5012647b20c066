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
)
from saas_api.payments.service.janitor import Rounds, look_after
from saas_api.payments.service.refunds import refund_due
from saas_api.payments.service.settlement import Offline, PaymentNotQuarantined, book_offline, look, resolve, settle

__all__ = [
    "INBOX",
    "AlreadyPaid",
    "AmountTooSmall",
    "InvalidProvider",
    "InvalidSignature",
    "InvoiceNotPayable",
    "MissingSignature",
    "Offline",
    "PaymentInFlight",
    "PaymentNotQuarantined",
    "ProviderUnavailable",
    "Rounds",
    "Wanted",
    "book_offline",
    "due",
    "initiate",
    "look",
    "look_after",
    "receive",
    "refund_due",
    "resolve",
    "settle",
    "work_off_some",
]
