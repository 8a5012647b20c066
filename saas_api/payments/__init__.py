"""Payments: asking a provider, its inbox, settlement, and dunning for what is overdue."""
