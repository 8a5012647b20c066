"""Every address says who may call it and what it takes and gives."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from openapi_spec_validator import validate
from werkzeug.routing import Rule

from saas_api.core.access import Access

PUBLIC = {
    "admin.organizations.stop_looking",
    "auth.api.accept_invitation",
    "auth.api.login",
    "auth.api.refresh",
    "auth.api.register",
    "auth.api.request_password_reset",
    "auth.api.reset_password",
    "auth.api.verify_email",
    "auth.pages.forgot_password",
    "auth.pages.invitation",
    "auth.pages.join",
    "auth.pages.leave",
    "auth.pages.login",
    "auth.pages.logout",
    "auth.pages.register",
    "auth.pages.request_reset",
    "auth.pages.reset_password",
    "auth.pages.set_password",
    "auth.pages.sign_in",
    "auth.pages.sign_up",
    "auth.pages.verify",
    "auth.pages.verify_email",
    "billing.plans.list_plans",
    "dashboard.site.preferences.remember",
    "dashboard.site.public.landing",
    "dashboard.site.public.pricing",
    "docs.static",
    "flasgger.<lambda>",
    "flasgger.apidocs",
    "flasgger.oauth_redirect",
    "flasgger.openapi",
    "flasgger.static",
    "ops.healthz",
    "ops.mail",
    "ops.mailbox",
    "ops.readyz",
    "ops.status",
    "organizations.decline",
    "payments.api.receive",
    "payments.api.receive_from_paystack",
    "payments.api.receive_from_stripe",
    "payments.pages.act",
    "payments.pages.checkout",
    "payments.pages.come_back",
    "static",
}

TAKES_NOTHING = {
    "auth.api.logout",
    "auth.api.request_verification",
    "messages.cancel",
    "webhooks.replay",
    "webhooks.resend",
}
TAKES_SIGNED_BYTES = {"payments.api.receive", "payments.api.receive_from_paystack", "payments.api.receive_from_stripe"}
GIVES_NO_DATA = {
    "auth.api.change_password",
    "auth.api.logout",
    "auth.api.request_password_reset",
    "auth.api.request_verification",
    "auth.api.reset_password",
    "auth.api.revoke_session",
    "organizations.cancel",
    "organizations.decline",
    "organizations.remove",
}
ARGUMENT = re.compile(r"<(?:[^<>]+:)?(\w+)>")


@pytest.fixture
def rules(app: Flask) -> list[Rule]:
    return list(app.url_map.iter_rules())


def access(app: Flask, rule: Rule) -> Access:
    found: Access = app.view_functions[rule.endpoint].__access__  # type: ignore[attr-defined]  # decorators put it there
    return found


def test_every_route_says_who_may_call_it(app: Flask, rules: list[Rule]) -> None:
    assert not [rule for rule in rules if not hasattr(app.view_functions[rule.endpoint], "__access__")]


def test_what_anybody_may_call_is_a_known_list(app: Flask, rules: list[Rule]) -> None:
    assert {rule.endpoint for rule in rules if access(app, rule).is_public} == PUBLIC


def api(rules: list[Rule]) -> Iterator[Rule]:
    for rule in rules:
        if rule.rule.startswith("/api/v1/") and rule.endpoint != "flasgger.openapi":
            yield rule


def test_every_api_route_says_what_it_takes_and_gives(app: Flask, rules: list[Rule]) -> None:
    without_body, without_data = set(), set()
    for rule in api(rules):
        operation = app.view_functions[rule.endpoint].__operation__  # type: ignore[attr-defined]  # the same
        reads = rule.methods <= {"GET", "DELETE", "HEAD", "OPTIONS"}
        if not (operation.body or operation.query or reads):
            without_body.add(rule.endpoint)
        if operation.returns is None and operation.produces == "application/json":
            without_data.add(rule.endpoint)
    assert without_body == TAKES_NOTHING | TAKES_SIGNED_BYTES
    assert without_data == GIVES_NO_DATA


def test_every_view_has_a_sentence_for_the_reference(app: Flask, rules: list[Rule]) -> None:
    for rule in api(rules):
        assert (app.view_functions[rule.endpoint].__doc__ or "").strip(), rule


def test_the_openapi_document_is_valid(app: Flask) -> None:
    validate(app.test_client().get("/api/v1/openapi.json").json)


def test_every_api_route_is_in_the_document_and_back(app: Flask, rules: list[Rule]) -> None:
    paths = app.test_client().get("/api/v1/openapi.json").json["paths"]
    documented = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    served = {
        (ARGUMENT.sub(r"{\1}", rule.rule), method)
        for rule in api(rules)
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert documented == served != set()
