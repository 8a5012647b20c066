"""Verbs of billing: accounts and periods, terms for the gate, statements for the ledger, closing, invoices."""

from saas_api.billing.service.invoicing.closing import (
    Outcome,
    close_due,
    close_now,
    drafts_due,
    drafts_now,
    keep_accounts,
)
from saas_api.billing.service.invoicing.invoices import Summary
from saas_api.billing.service.periods import (
    ensure_account,
    ensure_period,
    hold_periods,
    lock_statement,
    record_statements,
)
from saas_api.billing.service.preview import Preview, preview
from saas_api.billing.service.publishing import sync_rate
from saas_api.billing.service.terms import Terms, terms

__all__ = [
    "Outcome",
    "Preview",
    "Summary",
    "Terms",
    "close_due",
    "close_now",
    "drafts_due",
    "drafts_now",
    "ensure_account",
    "ensure_period",
    "hold_periods",
    "keep_accounts",
    "lock_statement",
    "preview",
    "record_statements",
    "sync_rate",
    "terms",
]
