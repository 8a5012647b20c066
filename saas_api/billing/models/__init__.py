"""Tables of this room; keys, checks, policies and triggers are in migrations/."""

from saas_api.billing.models.accounts import (
    AlertFiring,
    AlertRule,
    BillingPeriod,
    BillingProfile,
    Subscription,
    SubscriptionSegment,
)
from saas_api.billing.models.catalogue import Entitlement, Meter, Plan, PlanVersion, Price, PriceTier
from saas_api.billing.models.invoices import (
    CreditNote,
    CreditNoteLine,
    InvariantResult,
    Invoice,
    InvoiceLine,
    NumberSeries,
)
from saas_api.billing.models.wallet import CreditEntry, CreditGrant

__all__ = [
    "AlertFiring",
    "AlertRule",
    "BillingPeriod",
    "BillingProfile",
    "CreditEntry",
    "CreditGrant",
    "CreditNote",
    "CreditNoteLine",
    "Entitlement",
    "InvariantResult",
    "Invoice",
    "InvoiceLine",
    "Meter",
    "NumberSeries",
    "Plan",
    "PlanVersion",
    "Price",
    "PriceTier",
    "Subscription",
    "SubscriptionSegment",
]
