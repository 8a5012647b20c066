"""What is on the screenshots: a name, who looks, and the way there."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Flask

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.core import ids
from saas_api.core.errors import ApiError, ServiceUnavailable
from saas_api.payments import checkout as payments_checkout
from saas_api.payments.checkout import PaymentRequest
from tests.browser.visitor import Visitor
from tests.browser.world import World
from tests.support.accounts import PASSWORD

Way = Callable[["Guide", Visitor], object]
NEWCOMER = "nora@newcomer.example"


@dataclass(frozen=True)
class Guide:
    """Who knows the way.

    paths: by rule, with ids that exist
    """

    app: Flask
    world: World
    paths: dict[str, str]

    def path(self, rule: str) -> str:
        """The address of a rule; an address is its own."""
        return self.paths.get(rule, rule)

    @contextmanager
    def failing(self, error: Exception) -> Iterator[str]:
        """Let a page fail with an error for the length of a `with` block; gives its address."""
        views: dict[str, Any] = self.app.view_functions
        whole = views["ops.status"]

        @functools.wraps(whole)
        def fail() -> None:
            raise error

        views["ops.status"] = fail
        try:
            yield "/status"
        finally:
            views["ops.status"] = whole


class TooMany(ApiError):
    """Stands for a limit that was reached."""

    status, code, message, retry_after = 429, "RATE_LIMITED", "Too many requests.", 30


def at(rule: str, status: int = 200) -> Way:
    """The way to an address."""
    return lambda guide, visitor: visitor.open(guide.path(rule), status)


def broken(error: Exception, status: int) -> Way:
    """The way to a page that fails."""

    def go(guide: Guide, visitor: Visitor) -> None:
        with guide.failing(error) as path:
            visitor.open(path, status)

    return go


def taken(_guide: Guide, visitor: Visitor) -> None:
    visitor.open("/register")
    visitor.fill(organization_name="Acme", full_name="Alice", email="alice@acme.example", password=PASSWORD)
    visitor.press("Create account")
    visitor.page.locator(".error-summary").wait_for()


def key_dialog(_guide: Guide, visitor: Visitor) -> None:
    visitor.open("/dashboard/api-keys/new")
    visitor.fill(name="Order service")
    visitor.press("Create key")
    visitor.page.locator("dialog .secret").wait_for()


def endpoint_secret(_guide: Guide, visitor: Visitor) -> None:
    visitor.open("/dashboard/webhooks/new")
    visitor.fill(url="https://hooks.acme.example/orders")
    visitor.press("Add endpoint")
    visitor.sees("Copy the secret now")


def checkout(guide: Guide, visitor: Visitor) -> None:
    invoice = guide.paths['/dashboard/billing/invoices/<id("inv"):invoice_id>'].rpartition("/")[2]
    with guide.app.app_context():
        wanted = PaymentRequest(ids.parse_id("inv", invoice), provider="mock")
        started = payments_checkout.initiate_payment(guide.world.organization_id, wanted, SYSTEM_ACTOR)
    visitor.open(f"/payments/mock/{started.provider_reference}")


def declined(_guide: Guide, visitor: Visitor) -> None:
    """Goes on where the checkout was shown."""
    visitor.press("Decline")
    visitor.page.wait_for_url("**/payments/return/**")


def looking(guide: Guide, visitor: Visitor) -> None:
    visitor.open(f"{guide.path(ORGANIZATION)}/view-as")
    visitor.fill(reason="A screenshot of what the customer sees.")
    visitor.press("View for 60 minutes")
    visitor.page.wait_for_url("**/dashboard**")


def letter(subject: str) -> Way:
    """The way to the newest mail whose subject holds a text."""

    def go(_guide: Guide, visitor: Visitor) -> None:
        visitor.open("/ops/mail")
        visitor.page.locator("main a", has_text=subject).first.click()
        visitor.page.locator("main h1").wait_for()

    return go


ORGANIZATION = '/admin/organizations/<id("org"):organization_id>'
KEY, MESSAGE = '/dashboard/api-keys/<id("key"):key_id>', '/dashboard/messages/<id("msg"):message_id>'
INVOICE = '/dashboard/billing/invoices/<id("inv"):invoice_id>'
WEBHOOKS = "/dashboard/webhooks"
NOBODY: dict[str, Way] = {
    "landing": at("/"),
    "pricing": at("/pricing"),
    "status": at("/status"),
    "register": at("/register"),
    "register-taken": taken,
    "login": at("/login"),
    "forgot-password": at("/forgot-password"),
    "docs": at("/docs/"),
    "mailbox": at("/ops/mail"),
    "error-404": at("/nowhere", 404),
    "error-429": broken(TooMany(), 429),
    "error-500": broken(RuntimeError("for a screenshot"), 500),
    "error-503": broken(ServiceUnavailable(), 503),
    "mail-verify": letter("erify"),
    "mail-invoice": letter("nvoice"),
}
NORA: dict[str, Way] = {
    "home-empty": at("/dashboard"),
    "messages-empty": at("/dashboard/messages"),
    "api-keys-empty": at("/dashboard/api-keys"),
    "usage-empty": at("/dashboard/usage"),
    "webhooks-empty": at(WEBHOOKS),
}
ALICE: dict[str, Way] = {
    "home": at("/dashboard"),
    "messages": at("/dashboard/messages"),
    "message-failed": at(MESSAGE),
    "message-new": at("/dashboard/messages/new"),
    "api-keys": at("/dashboard/api-keys"),
    "api-key": at(KEY),
    "key-dialog": key_dialog,
    "usage": at("/dashboard/usage"),
    "billing": at("/dashboard/billing"),
    "plans": at("/dashboard/billing/plans"),
    "plan-confirm": at("/dashboard/billing/plans/<code>"),
    "spend-cap": at("/dashboard/billing/spending"),
    "wallet": at("/dashboard/billing/wallet"),
    "invoice": at(INVOICE),
    "invoice-explain": at(f'{INVOICE}/lines/<id("lin"):line_id>'),
    "invoice-print": at(f"{INVOICE}/print"),
    "checkout-mock": checkout,
    "payment-result": declined,
    "webhooks": at(WEBHOOKS),
    "endpoint": at(f'{WEBHOOKS}/<id("whe"):endpoint_id>'),
    "endpoint-secret": endpoint_secret,
    "deliveries": at(f"{WEBHOOKS}/deliveries"),
    "delivery": at(f'{WEBHOOKS}/deliveries/<id("whd"):delivery_id>'),
    "events": at(f"{WEBHOOKS}/events"),
    "team": at("/dashboard/team"),
    "settings": at("/dashboard/settings"),
    "audit-log": at("/dashboard/audit-log"),
    "account": at("/dashboard/account"),
}
FRANK: dict[str, Way] = {"error-403": at("/dashboard/api-keys/new", 403)}
OLGA: dict[str, Way] = {
    "admin": at("/admin"),
    "admin-organizations": at("/admin/organizations"),
    "admin-organization": at(ORGANIZATION),
    "admin-bill-now": at(f"{ORGANIZATION}/bill-now"),
    "admin-plans": at("/admin/plans"),
    "admin-billing": at("/admin/billing"),
    "admin-invoices": at("/admin/invoices"),
    "admin-payments": at("/admin/payments"),
    "admin-deliveries": at("/admin/deliveries"),
    "admin-jobs": at("/admin/jobs"),
    "admin-invariants": at("/admin/invariants"),
    "admin-mail": at("/admin/mail"),
    "admin-system": at("/admin/system"),
    "home-operator-view": looking,
}
ALBUM: dict[str, dict[str, Way]] = {
    "": NOBODY,
    NEWCOMER: NORA,
    "alice@acme.example": ALICE,
    "frank@acme.example": FRANK,
    "olga@platform.example": OLGA,
}
"""Names and the ways to them, by the address of who looks; in this order, for some ways go on from others."""
