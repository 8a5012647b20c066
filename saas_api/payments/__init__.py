"""Payments of invoices through providers: checkout, provider events, settlement, refunds and dunning."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="payments",
    id_prefixes=("pay", "pmd", "rfd"),
    system_purposes=(
        "payments.automatic",
        "payments.dunning",
        "payments.initiate",
        "payments.janitor",
        "payments.methods",
        "payments.refund",
        "payments.resolve",
        "payments.reverse",
        "payments.settle",
    ),
    home_purposes=("payments.inbox",),
)
