"""The screenshots: names, signed-in users, and the steps that open the page."""

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
from tests.browser.demo import Demo
from tests.browser.window import Window
from tests.support.accounts import PASSWORD

Steps = Callable[["ScreenshotContext", Window], object]
NEWCOMER = "nora@newcomer.example"


@dataclass(frozen=True)
class ScreenshotContext:
    """The application with demo data.

    paths: by rule, with existing ids
    """

    app: Flask
    demo: Demo
    paths: dict[str, str]

    def path(self, rule: str) -> str:
        """Return the path of a rule; a path is returned as it is."""
        return self.paths.get(rule, rule)

    @contextmanager
    def failing(self, error: Exception) -> Iterator[str]:
        """Make a page fail with an error until the end of the block, and yield its path."""
        views: dict[str, Any] = self.app.view_functions
        view = views["ops.status"]

        @functools.wraps(view)
        def fail() -> None:
            raise error

        views["ops.status"] = fail
        try:
            yield "/status"
        finally:
            views["ops.status"] = view


class TooMany(ApiError):
    """The error of a reached rate limit."""

    status, code, message, retry_after = 429, "RATE_LIMITED", "Too many requests.", 30


def open_path(rule: str, status: int = 200) -> Steps:
    """Open a path."""
    return lambda context, window: window.open(context.path(rule), status)


def open_failing_page(error: Exception, status: int) -> Steps:
    """Open a page that fails."""

    def go(context: ScreenshotContext, window: Window) -> None:
        with context.failing(error) as path:
            window.open(path, status)

    return go


def register_taken_address(_context: ScreenshotContext, window: Window) -> None:
    window.open("/register")
    window.fill(organization_name="Acme", full_name="Alice", email="alice@acme.example", password=PASSWORD)
    window.press("Create account")
    window.page.locator(".error-summary").wait_for()


def create_key(_context: ScreenshotContext, window: Window) -> None:
    window.open("/dashboard/api-keys/new")
    window.fill(name="Order service")
    window.press("Create key")
    window.page.locator("dialog .secret").wait_for()


def create_endpoint(_context: ScreenshotContext, window: Window) -> None:
    window.open("/dashboard/webhooks/new")
    window.fill(url="https://hooks.acme.example/orders")
    window.press("Add endpoint")
    window.sees("Copy your signing secret now")


def open_checkout(context: ScreenshotContext, window: Window) -> None:
    invoice = context.paths['/dashboard/billing/invoices/<id("inv"):invoice_id>'].rpartition("/")[2]
    with context.app.app_context():
        request = PaymentRequest(ids.parse_id("inv", invoice), provider="mock")
        started = payments_checkout.initiate_payment(context.demo.organization_id, request, SYSTEM_ACTOR)
    window.open(f"/payments/mock/{started.provider_reference}")


def decline_payment(_context: ScreenshotContext, window: Window) -> None:
    """Continue on the page that `open_checkout` left open."""
    window.press("Decline")
    window.page.wait_for_url("**/payments/return/**")


def impersonate(context: ScreenshotContext, window: Window) -> None:
    window.open(f"{context.path(ORGANIZATION)}/view-as")
    window.fill(reason="A screenshot of the organization's pages.")
    window.press("View for 60 minutes")
    window.page.wait_for_url("**/dashboard**")


def open_mail(subject: str) -> Steps:
    """Open the newest mail with a text in its subject."""

    def go(_context: ScreenshotContext, window: Window) -> None:
        window.open("/ops/mail")
        window.page.locator("main a", has_text=subject).first.click()
        window.page.locator("main h1").wait_for()

    return go


ORGANIZATION = '/admin/organizations/<id("org"):organization_id>'
KEY, MESSAGE = '/dashboard/api-keys/<id("key"):key_id>', '/dashboard/messages/<id("msg"):message_id>'
INVOICE = '/dashboard/billing/invoices/<id("inv"):invoice_id>'
WEBHOOKS = "/dashboard/webhooks"
ANONYMOUS: dict[str, Steps] = {
    "landing": open_path("/"),
    "pricing": open_path("/pricing"),
    "status": open_path("/status"),
    "register": open_path("/register"),
    "register-taken": register_taken_address,
    "login": open_path("/login"),
    "forgot-password": open_path("/forgot-password"),
    "docs": open_path("/docs/"),
    "docs-guide": open_path("/docs/quickstart"),
    "docs-search": open_path("/docs/search?q=rate+limit"),
    "docs-reference": open_path("/docs/reference/messages"),
    "docs-error": open_path("/docs/errors/SPEND_CAP_REACHED"),
    "mailbox": open_path("/ops/mail"),
    "error-404": open_path("/nowhere", 404),
    "error-429": open_failing_page(TooMany(), 429),
    "error-500": open_failing_page(RuntimeError("for a screenshot"), 500),
    "error-503": open_failing_page(ServiceUnavailable(), 503),
    "mail-verify": open_mail("erify"),
    "mail-invoice": open_mail("nvoice"),
}
NORA: dict[str, Steps] = {
    "home-empty": open_path("/dashboard"),
    "messages-empty": open_path("/dashboard/messages"),
    "api-keys-empty": open_path("/dashboard/api-keys"),
    "usage-empty": open_path("/dashboard/usage"),
    "webhooks-empty": open_path(WEBHOOKS),
}
ALICE: dict[str, Steps] = {
    "home": open_path("/dashboard"),
    "messages": open_path("/dashboard/messages"),
    "message-failed": open_path(MESSAGE),
    "message-new": open_path("/dashboard/messages/new"),
    "api-keys": open_path("/dashboard/api-keys"),
    "api-key": open_path(KEY),
    "key-dialog": create_key,
    "usage": open_path("/dashboard/usage"),
    "logs": open_path("/dashboard/logs"),
    "log": open_path("/dashboard/logs/<request_id>"),
    "billing": open_path("/dashboard/billing"),
    "plans": open_path("/dashboard/billing/plans"),
    "plan-confirm": open_path("/dashboard/billing/plans/<code>"),
    "spend-cap": open_path("/dashboard/billing/spending"),
    "credits": open_path("/dashboard/billing/credits"),
    "invoice": open_path(INVOICE),
    "invoice-explain": open_path(f'{INVOICE}/lines/<id("lin"):line_id>'),
    "invoice-print": open_path(f"{INVOICE}/print"),
    "checkout-mock": open_checkout,
    "payment-result": decline_payment,
    "webhooks": open_path(WEBHOOKS),
    "endpoint": open_path(f'{WEBHOOKS}/<id("whe"):endpoint_id>'),
    "endpoint-secret": create_endpoint,
    "deliveries": open_path(f"{WEBHOOKS}/deliveries"),
    "delivery": open_path(f'{WEBHOOKS}/deliveries/<id("whd"):delivery_id>'),
    "events": open_path(f"{WEBHOOKS}/events"),
    "team": open_path("/dashboard/team"),
    "settings": open_path("/dashboard/settings"),
    "audit-log": open_path("/dashboard/audit-log"),
    "account": open_path("/dashboard/account"),
}
FRANK: dict[str, Steps] = {"error-403": open_path("/dashboard/api-keys/new", 403)}
OLGA: dict[str, Steps] = {
    "admin": open_path("/admin"),
    "admin-organizations": open_path("/admin/organizations"),
    "admin-organization": open_path(ORGANIZATION),
    "admin-bill-now": open_path(f"{ORGANIZATION}/bill-now"),
    "admin-plans": open_path("/admin/plans"),
    "admin-meters": open_path("/admin/meters"),
    "admin-meter": open_path("/admin/meters/sms"),
    "admin-new-meter": open_path("/admin/meters/new-meter"),
    "admin-services": open_path("/admin/services"),
    "admin-service": open_path("/admin/services/<name>"),
    "admin-billing": open_path("/admin/billing"),
    "admin-invoices": open_path("/admin/invoices"),
    "admin-payments": open_path("/admin/payments"),
    "admin-deliveries": open_path("/admin/deliveries"),
    "admin-jobs": open_path("/admin/jobs"),
    "admin-invariants": open_path("/admin/invariants"),
    "admin-mail": open_path("/admin/mail"),
    "admin-system": open_path("/admin/system"),
    "home-operator-view": impersonate,
}
SCREENSHOTS: dict[str, dict[str, Steps]] = {
    "": ANONYMOUS,
    NEWCOMER: NORA,
    "alice@acme.example": ALICE,
    "frank@acme.example": FRANK,
    "olga@platform.example": OLGA,
}
"""Steps by name of the screenshot and email address of the user; some continue from the steps before them."""
