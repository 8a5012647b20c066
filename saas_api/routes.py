"""Everything that the application serves: blueprints with their prefixes."""

from collections.abc import Collection
from typing import Any

from flask import Blueprint

from saas_api.accounts import api as accounts_api
from saas_api.accounts import pages as accounts_pages
from saas_api.admin import blueprint as admin
from saas_api.api_keys import api as api_keys_api
from saas_api.billing import api as billing_api
from saas_api.billing import plan_api, usage_api
from saas_api.core import domain
from saas_api.core.web import http, templating
from saas_api.core.web.app import App
from saas_api.core.web.endpoint import Operation
from saas_api.dashboard import blueprint as dashboard
from saas_api.docs import blueprint as docs
from saas_api.docs import pages as docs_pages
from saas_api.messages import api as messages_api
from saas_api.metering import api as metering_api
from saas_api.metering import events_api, forward_auth_api, holds_api, metered_endpoints
from saas_api.ops import blueprint as ops
from saas_api.payments import api as payments_api
from saas_api.payments import pages as payments_pages
from saas_api.portal import api as portal_api
from saas_api.portal import pages as portal_pages
from saas_api.usage import api as requests_api
from saas_api.webhooks import api as webhooks_api

BLUEPRINT_PREFIXES = {
    accounts_api.bp: "/api/v1",
    accounts_pages.bp: "",
    api_keys_api.bp: "/api/v1",
    metering_api.bp: "/api/v1",
    forward_auth_api.bp: "",
    messages_api.bp: "/api/v1/messages",
    billing_api.bp: "/api/v1",
    plan_api.bp: "/api/v1",
    usage_api.bp: "/api/v1",
    requests_api.bp: "/api/v1",
    events_api.bp: "/api/v1",
    payments_api.bp: "/api/v1",
    holds_api.bp: "/api/v1",
    payments_pages.bp: "/payments",
    webhooks_api.bp: "/api/v1/webhooks",
    portal_api.bp: "/api/v1",
    portal_pages.bp: "/portal",
    dashboard.bp: "",
    admin.bp: "",
    docs.bp: "",
    docs_pages.bp: "",
    ops.bp: "",
}
PAGES_FROM_REPLICA = (dashboard.bp, admin.bp)
"""Blueprints whose pages read from the replica where there is one; views of the API say it with `reads_replica`."""


def is_offered(blueprint: Blueprint, services: Collection[str]) -> bool:
    """Whether the setting SERVICES offers what a blueprint serves; it names services only."""
    package = blueprint.import_name.split(".")[1]
    return package not in domain.registry.services or bool({"all", package} & set(services))


def register(app: App, services: Collection[str]) -> None:
    """Register the blueprints, and the templates of their pages.

    services: the setting SERVICES
    raises: ValueError when it names a service that there is not
    """
    templating.init_templates(app)
    unknown = {*services} - domain.registry.services - {"all"}
    if unknown:
        known = ", ".join(sorted(domain.registry.services))
        raise ValueError(f"SERVICES: there is no service {', '.join(sorted(unknown))}; choose from {known}")
    for blueprint, prefix in BLUEPRINT_PREFIXES.items():
        if is_offered(blueprint, services):
            app.register_blueprint(blueprint, url_prefix=prefix or None)
    from_replica = set()
    for rule in app.url_map.iter_rules():
        view, method = app.view_functions[rule.endpoint], min((rule.methods or set()) - {"HEAD", "OPTIONS"}, default="")
        metered_endpoints.register_source(view, method, http.openapi_path(rule.rule))
        if method == "GET" and _reads_replica(rule.endpoint, view):
            from_replica.add(rule.endpoint)
    app.replica_endpoints = frozenset(from_replica)


def _reads_replica(endpoint: str, view: Any) -> bool:
    operation: Operation | None = getattr(view, "__operation__", None)
    is_page = endpoint.partition(".")[0] in {blueprint.name for blueprint in PAGES_FROM_REPLICA}
    return is_page or (operation is not None and operation.reads_replica)
