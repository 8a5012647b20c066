"""Every route declares its permission, its request and its response."""

import inspect
import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from werkzeug.routing import Rule

from saas_api.core.access import Access
from saas_api.core.web.app import App
from tests.support.console import sign_in_operator
from tests.support.services import create_service, service_headers

PUBLIC = {
    "admin.actions.stop_impersonation",
    "accounts.accept_invitation",
    "accounts.login",
    "accounts.refresh",
    "accounts.register",
    "accounts.request_password_reset",
    "accounts.reset_password",
    "accounts.verify_email",
    "accounts_pages.confirm_email",
    "accounts_pages.confirm_email_form",
    "accounts_pages.forgot_password_form",
    "forward_auth.gate",
    "accounts_pages.invitation_form",
    "accounts_pages.accept_invitation",
    "accounts_pages.logout_form",
    "accounts_pages.login_form",
    "accounts_pages.logout",
    "accounts_pages.register_form",
    "accounts_pages.request_password_reset",
    "accounts_pages.reset_password_form",
    "accounts_pages.reset_password",
    "accounts_pages.login",
    "accounts_pages.login_with_code",
    "accounts_pages.register",
    "accounts_pages.verify_billing_email",
    "accounts_pages.verify_billing_email_form",
    "accounts_pages.verify_email",
    "accounts_pages.verify_email_form",
    "billing_plans.list_plans",
    "dashboard.public.set_preference",
    "dashboard.public.landing",
    "dashboard.public.pricing",
    "docs.service_document",
    "docs.show_service",
    "flasgger.<lambda>",
    "flasgger.apidocs",
    "flasgger.oauth_redirect",
    "flasgger.openapi",
    "flasgger.static",
    "ops.healthz",
    "portal.search",
    "portal.show_changelog",
    "portal.show_error_code",
    "portal.show_guide",
    "customer_portal.open_link",
    "portal.show_home",
    "portal.show_reference",
    "portal.show_topic",
    "ops.mail",
    "ops.mailbox",
    "ops.metrics",
    "ops.readyz",
    "ops.status",
    "ops.status_feed",
    "ops.version",
    "accounts.decline_invitation",
    "payments.receive_event",
    "payments.receive_from_paystack",
    "payments.receive_from_stripe",
    "payments_pages.setup_page",
    "payments_pages.setup_return_page",
    "payments_pages.submit_checkout",
    "payments_pages.submit_setup",
    "payments_pages.checkout_page",
    "payments_pages.return_page",
    "static",
}

TAKES_NOTHING = {
    "accounts.leave_organization",
    "accounts.logout",
    "accounts.request_verification",
    "accounts.request_verification_link",
    "billing.send_invoice",
    "holds.release",
    "messages.cancel",
    "payments.set_default_payment_method",
    "webhooks.replay_event",
    "webhooks.resend_delivery",
}
TAKES_SIGNED_BYTES = {"payments.receive_event", "payments.receive_from_paystack", "payments.receive_from_stripe"}
GIVES_NO_DATA = {
    "accounts.change_password",
    "accounts.logout",
    "accounts.request_password_reset",
    "accounts.request_verification",
    "accounts.request_verification_link",
    "accounts.reset_password",
    "accounts.revoke_session",
    "accounts.revoke_invitation",
    "accounts.decline_invitation",
}
REPORTS = {
    "accounts.list_audit_events",
    "billing.download_line_events",
    "billing.explain_line",
    "billing.list_credit_notes",
    "billing.list_invoices",
    "billing.show_current_bill",
    "billing.show_invoice",
    "billing.show_pdf",
    "billing.show_wallet",
    "billing_usage.show_billing_usage",
    "billing_usage.show_timeseries",
    "billing_usage.show_usage",
    "requests.list_requests",
    "requests.show",
    "messages.list_messages",
    "payments.list_payments",
    "webhooks.list_deliveries",
    "webhooks.list_events",
}
"""Views of the API outside of the dashboard that read from the replica."""
ARGUMENT = re.compile(r"<(?:[^<>]+:)?(\w+)>")


@pytest.fixture
def rules(app: Flask) -> list[Rule]:
    return list(app.url_map.iter_rules())


def access(app: Flask, rule: Rule) -> Access:
    declared: Access = app.view_functions[rule.endpoint].__access__  # type: ignore[attr-defined]  # decorators put it there
    return declared


def test_every_view_declares_its_access(app: Flask, rules: list[Rule]) -> None:
    assert not [rule for rule in rules if not hasattr(app.view_functions[rule.endpoint], "__access__")]


def test_public_views_are_a_known_list(app: Flask, rules: list[Rule]) -> None:
    assert {rule.endpoint for rule in rules if access(app, rule).is_public} == PUBLIC


def api(rules: list[Rule]) -> Iterator[Rule]:
    for rule in rules:
        if rule.rule.startswith("/api/v1/") and rule.endpoint != "flasgger.openapi":
            yield rule


def test_no_view_is_a_coroutine(app: Flask) -> None:
    assert not [name for name, view in app.view_functions.items() if inspect.iscoroutinefunction(view)]


def test_every_api_view_declares_its_schemas(app: Flask, rules: list[Rule]) -> None:
    without_body, without_data = set(), set()
    for rule in api(rules):
        operation = app.view_functions[rule.endpoint].__operation__  # type: ignore[attr-defined]  # the same
        reads = rule.methods <= {"GET", "DELETE", "HEAD", "OPTIONS"}
        if not (operation.body or operation.consumes or operation.query or reads):
            without_body.add(rule.endpoint)
        if operation.returns is None and operation.produces == "application/json":
            without_data.add(rule.endpoint)
    assert without_body == TAKES_NOTHING | TAKES_SIGNED_BYTES
    assert without_data == GIVES_NO_DATA


def test_every_api_view_has_a_summary(app: Flask, rules: list[Rule]) -> None:
    for rule in api(rules):
        assert (app.view_functions[rule.endpoint].__doc__ or "").strip(), rule


def test_pages_reports_and_exports_read_from_the_replica_and_nothing_else(app: App, rules: list[Rule]) -> None:
    gets = {rule.endpoint for rule in rules if "GET" in (rule.methods or ())}
    pages = {name for name in gets if name.partition(".")[0] in ("dashboard", "admin")}
    assert app.replica_endpoints == pages | REPORTS
    written = {rule.endpoint for rule in rules if "GET" not in (rule.methods or ())}
    assert not written & REPORTS
    for name in REPORTS:
        operation = app.view_functions[name].__operation__  # type: ignore[attr-defined]  # the same
        assert operation.metering is None


def test_openapi_document_is_valid(app: Flask) -> None:
    validate(app.test_client().get("/api/v1/openapi.json").json)


def test_api_routes_and_documented_operations_are_the_same(app: Flask, rules: list[Rule]) -> None:
    paths = app.test_client().get("/api/v1/openapi.json").json["paths"]
    documented = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    served = {
        (ARGUMENT.sub(r"{\1}", rule.rule), method)
        for rule in api(rules)
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert documented == served != set()


def test_nul_in_a_path_is_no_fault(app: Flask, client: FlaskClient) -> None:
    """PostgreSQL has no texts with NUL; the callers are everybody, a service and an operator."""
    token, operator = service_headers(create_service(app)), sign_in_operator(app, client).client
    faults = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "a%00b", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"} if path != rule.rule else ():
            for caller, headers in ((app.test_client(), {}), (app.test_client(), token), (operator, {})):
                if caller.open(path, method=method, headers=headers).status_code >= 500:
                    faults.append(f"{method} {rule.rule}")
    assert faults == []
