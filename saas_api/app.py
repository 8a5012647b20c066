"""The application factory."""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint
from werkzeug.middleware.proxy_fix import ProxyFix

from saas_api.accounts import api as accounts_api
from saas_api.accounts import jobs as accounts_jobs  # noqa: F401 - registers jobs
from saas_api.accounts import pages as accounts_pages
from saas_api.admin import blueprint as admin
from saas_api.api_keys import api as api_keys_api
from saas_api.billing import api as billing_api
from saas_api.billing import jobs as billing_jobs  # noqa: F401 - registers jobs
from saas_api.billing import plan_api, usage_api
from saas_api.core import domain, observability
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.web import app as web_app
from saas_api.core.web import http
from saas_api.core.web.app import App
from saas_api.dashboard import blueprint as dashboard
from saas_api.docs import blueprint as docs
from saas_api.gate import hooks
from saas_api.mail import jobs as mail_jobs  # noqa: F401 - registers jobs
from saas_api.messages import api as messages_api
from saas_api.messages import jobs as messages_jobs  # noqa: F401 - registers jobs
from saas_api.metering import api as metering_api
from saas_api.metering import events_api, forward_auth_api, holds_api, metered_endpoints
from saas_api.metering import jobs as metering_jobs  # noqa: F401 - registers jobs
from saas_api.ops import blueprint as ops
from saas_api.ops import jobs as ops_jobs  # noqa: F401 - registers jobs
from saas_api.payments import api as payments_api
from saas_api.payments import jobs as payments_jobs  # noqa: F401 - registers jobs
from saas_api.payments import pages as payments_pages
from saas_api.services import jobs as services_jobs  # noqa: F401 - registers jobs
from saas_api.usage import jobs as usage_jobs  # noqa: F401 - registers jobs
from saas_api.webhooks import api as webhooks_api
from saas_api.webhooks import jobs as webhooks_jobs  # noqa: F401 - registers jobs

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
    events_api.bp: "/api/v1",
    payments_api.bp: "/api/v1",
    holds_api.bp: "/api/v1",
    payments_pages.bp: "/payments",
    webhooks_api.bp: "/api/v1/webhooks",
    dashboard.bp: "",
    admin.bp: "",
    docs.bp: "",
    ops.bp: "",
}


def is_offered(blueprint: Blueprint, services: Collection[str]) -> bool:
    """Whether the setting SERVICES offers what a blueprint serves; it names services only."""
    package = blueprint.import_name.split(".")[1]
    return package not in domain.registry.services or bool({"all", package} & set(services))


def create_app(config: Mapping[str, Any]) -> App:
    """Create the application with all blueprints and jobs.

    config: every setting of `config.py`, by name; PROCESS names this process in PostgreSQL's list of connections
    raises: ValueError when SERVICES names a service that there is not
    """
    unknown = set(config["SERVICES"]) - domain.registry.services - {"all"}
    if unknown:
        known = ", ".join(sorted(domain.registry.services))
        raise ValueError(f"SERVICES: there is no service {', '.join(sorted(unknown))}; choose from {known}")
    app = App("saas_api")
    app.config.from_mapping(config)
    app.config.from_mapping(
        SQLALCHEMY_DATABASE_URI=config["DATABASE_URL"],
        SQLALCHEMY_ENGINE_OPTIONS=engine.engine_options(config.get("PROCESS", "")),
        LOGIN_ENDPOINT="accounts_pages.login_form",
    )
    app.config["TRUSTED_HOSTS"] = [urlsplit(config["APP_URL"]).hostname, "localhost", "127.0.0.1"]
    observability.configure_logging(config)
    if config["TRUSTED_PROXIES"]:
        behind_proxies = ProxyFix(app.wsgi_app, x_for=config["TRUSTED_PROXIES"])
        app.wsgi_app = behind_proxies  # type: ignore[method-assign]  # the documented way to wrap an application
    db.init_app(app)
    http.init_app(app)
    web_app.init_app(app)
    hooks.init_app(app)
    for blueprint, prefix in BLUEPRINT_PREFIXES.items():
        if not is_offered(blueprint, config["SERVICES"]):
            continue
        app.register_blueprint(blueprint, url_prefix=prefix or None)
    for rule in app.url_map.iter_rules():
        method = min((rule.methods or set()) - {"HEAD", "OPTIONS"}, default="")
        metered_endpoints.register_source(app.view_functions[rule.endpoint], method, http.openapi_path(rule.rule))
    return app
