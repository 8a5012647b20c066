"""What operators do to invoices, payments and events: its words, and the service that does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saas_api.billing import service as billing
from saas_api.payments import service as payments


@dataclass(frozen=True)
class Deed:
    """One act, as its page shows it.

    text: what follows from it
    done: said afterwards
    kind: of its button, "primary" or "bad"
    """

    title: str
    text: str
    button: str
    done: str
    call: Callable[..., Any]
    kind: str = "primary"


INVOICE_ACTS = {
    "finalize": Deed(
        "Finalize the draft",
        "The invoice gets its number and its due date, is frozen, and is sent to the organization. "
        "What is in its wallet is used first.",
        "Finalize",
        "The invoice is final.",
        billing.finalize,
    ),
    "redo": Deed(
        "Work the draft out anew",
        "Every line is worked out again from the ledger and the prices. The draft stays a draft.",
        "Work it out anew",
        "The draft was worked out anew.",
        billing.redo_draft,
    ),
    "delete": Deed(
        "Delete the draft",
        "The draft is gone and its period is not billed. This cannot be taken back.",
        "Delete the draft",
        "The draft is deleted.",
        billing.delete_draft,
        "danger",
    ),
    "void": Deed(
        "Void the invoice",
        "The invoice is taken back, keeps its number, and is pursued no longer. What the wallet paid of it goes back "
        "into the wallet. This cannot be taken back.",
        "Void the invoice",
        "The invoice is void.",
        billing.void,
        "danger",
    ),
    "write-off": Deed(
        "Write the invoice off",
        "The invoice counts as uncollectible and is pursued no longer. A payment that still comes is taken.",
        "Write it off",
        "The invoice is written off.",
        billing.mark_uncollectible,
        "danger",
    ),
}
PAYMENT_ACTS = {
    "ask": Deed(
        "Ask the provider again",
        "The provider is asked now, and the payment becomes what the answer says: money that it confirms is booked.",
        "Ask the provider",
        "The provider was asked.",
        payments.ask_again,
    ),
    "resolve": Deed(
        "Resolve the payment",
        "The payment is canceled and nothing is booked. Do this after the money was put right with the provider.",
        "Resolve the payment",
        "Resolved.",
        payments.resolve,
        "danger",
    ),
}
EVENT_ACTS = {
    "take-up": Deed(
        "Take the event up again",
        "The event is worked off anew: its provider is asked about the payment that it names.",
        "Take it up again",
        "The event is taken up again.",
        payments.take_up_again,
    ),
    "resolve": Deed(
        "Resolve the event",
        "The event is laid aside as ignored and nothing is booked. Do this after you have understood it.",
        "Resolve the event",
        "The event is resolved.",
        payments.resolve_event,
        "danger",
    ),
}
