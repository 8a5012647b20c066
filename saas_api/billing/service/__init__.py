"""Verbs of billing: accounts and periods, terms for the gate, statements for the ledger, closing, invoices."""

from saas_api.billing.service.buyer import Buyer, buyer_of, set_buyer
from saas_api.billing.service.invariants import AlreadyChecking, Result, Violation, check_invariants
from saas_api.billing.service.invoicing.acts import Act
from saas_api.billing.service.invoicing.closing import (
    Outcome,
    close_due,
    close_now,
    drafts_due,
    drafts_now,
    keep_accounts,
)
from saas_api.billing.service.invoicing.corrections import (
    BillingParked,
    InvoiceHasPayments,
    NotADraft,
    delete_draft,
    finalize,
    redo_draft,
    unpark,
    void,
)
from saas_api.billing.service.invoicing.crediting import Credit, CreditExceedsInvoice, credit
from saas_api.billing.service.invoicing.invoices import Summary
from saas_api.billing.service.invoicing.settlement import (
    InvoiceNotOpen,
    Settled,
    lock_invoice,
    mark_uncollectible,
    outstanding,
    settle_invoice,
)
from saas_api.billing.service.invoicing.telling import tell
from saas_api.billing.service.invoicing.wallet import GrantExists, Source, expire_grants, grant
from saas_api.billing.service.limits import Exceptions, exceptions_of, set_exceptions
from saas_api.billing.service.periods import (
    ensure_account,
    ensure_period,
    hold_periods,
    lock_statement,
    record,
    record_statements,
)
from saas_api.billing.service.plans import Change, InvalidPlan, NoOpenPeriod, SamePlan, change_plan, look_at_change
from saas_api.billing.service.preview import NoRunningPeriod, Preview, Simulation, preview, simulate
from saas_api.billing.service.publishing import NoSuchPlan, PlanNeeded, Published, publish, retire, sync_rate
from saas_api.billing.service.spend.alerts import cap_reached, change_rules, watch
from saas_api.billing.service.spend.spending import (
    SPEND,
    CapState,
    cap_state,
    quantity_name,
    set_cap,
    spend_counters,
    spent_now,
    spent_text,
)
from saas_api.billing.service.standing import lock_standing, set_standing
from saas_api.billing.service.terms import Cap, Terms, terms

__all__ = [
    "SPEND",
    "Act",
    "AlreadyChecking",
    "BillingParked",
    "Buyer",
    "Cap",
    "CapState",
    "Change",
    "Credit",
    "CreditExceedsInvoice",
    "Exceptions",
    "GrantExists",
    "InvalidPlan",
    "InvoiceHasPayments",
    "InvoiceNotOpen",
    "NoOpenPeriod",
    "NoRunningPeriod",
    "NoSuchPlan",
    "NotADraft",
    "Outcome",
    "PlanNeeded",
    "Preview",
    "Published",
    "Result",
    "SamePlan",
    "Settled",
    "Simulation",
    "Source",
    "Summary",
    "Terms",
    "Violation",
    "buyer_of",
    "cap_reached",
    "cap_state",
    "change_plan",
    "change_rules",
    "check_invariants",
    "close_due",
    "close_now",
    "credit",
    "delete_draft",
    "drafts_due",
    "drafts_now",
    "ensure_account",
    "ensure_period",
    "exceptions_of",
    "expire_grants",
    "finalize",
    "grant",
    "hold_periods",
    "keep_accounts",
    "lock_invoice",
    "lock_standing",
    "lock_statement",
    "look_at_change",
    "mark_uncollectible",
    "outstanding",
    "preview",
    "publish",
    "quantity_name",
    "record",
    "record_statements",
    "redo_draft",
    "retire",
    "set_buyer",
    "set_cap",
    "set_exceptions",
    "set_standing",
    "settle_invoice",
    "simulate",
    "spend_counters",
    "spent_now",
    "spent_text",
    "sync_rate",
    "tell",
    "terms",
    "unpark",
    "void",
    "watch",
]
