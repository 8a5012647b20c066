"""The customer portal: pages of keys, usage, invoices and webhooks for customers who have no account here."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="portal", id_prefixes=("prt",), system_purposes=("portal.links",), home_purposes=("portal.operators",)
)
