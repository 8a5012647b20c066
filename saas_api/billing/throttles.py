"""Rate limit of invoices that users send themselves, shared by API and pages."""

from flask import g

from saas_api.core.limits import limiter

INVOICE_COPIES_PER_HOUR = 20


def _user_key() -> str:
    return str(g.principal.id)


limit_invoice_copies = limiter.limiter.shared_limit(
    f"{INVOICE_COPIES_PER_HOUR} per hour", scope="invoice-copies", key_func=_user_key
)
