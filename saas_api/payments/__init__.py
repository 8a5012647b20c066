"""Payments: asking a provider, its inbox, settlement, and dunning for what is overdue."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="payments",
    id_prefixes=("pay",),
    system_purposes=(
        "payments.dunning",
        "payments.inbox",
        "payments.initiate",
        "payments.janitor",
        "payments.refund",
        "payments.resolve",
        "payments.settle",
    ),
)
