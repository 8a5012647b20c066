"""The application factory: it mounts every room of the house, and nothing else."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from werkzeug.middleware.proxy_fix import ProxyFix

from saas_api import gate
from saas_api.admin.routes import bp as admin
from saas_api.api_keys.routes import bp as api_keys
from saas_api.auth.routes import bp as auth
from saas_api.billing import jobs as billing_jobs  # noqa: F401 - it registers the jobs
from saas_api.billing.routes import bp as billing
from saas_api.core import app as core_app
from saas_api.core import http, observe
from saas_api.core.app import App
from saas_api.core.db import db, engine_options
from saas_api.dashboard.routes import bp as dashboard
from saas_api.docs.routes import bp as docs
from saas_api.mail import jobs as mail_jobs  # noqa: F401 - it registers the jobs
from saas_api.messages import jobs as messages_jobs  # noqa: F401 - it registers the jobs
from saas_api.messages.routes import bp as messages
from saas_api.ops import jobs as ops_jobs  # noqa: F401 - it registers the jobs
from saas_api.ops.routes import bp as ops
from saas_api.organizations import jobs as organizations_jobs  # noqa: F401 - it registers the jobs
from saas_api.organizations.routes import bp as organizations
from saas_api.payments import jobs as payments_jobs  # noqa: F401 - it registers the jobs
from saas_api.payments.routes import bp as payments
from saas_api.usage import jobs as usage_jobs  # noqa: F401 - it registers the jobs
from saas_api.webhooks import jobs as webhooks_jobs  # noqa: F401 - it registers the jobs
from saas_api.webhooks.routes import bp as webhooks

PREFIXES = {
    auth: "",
    organizations: "/api/v1",
    api_keys: "/api/v1",
    messages: "/api/v1/messages",
    billing: "/api/v1",
    payments: "",
    webhooks: "/api/v1/webhooks",
    dashboard: "",
    admin: "",
    docs: "",
    ops: "",
}


def create_app(config: Mapping[str, Any]) -> App:
    """The whole application, ready to serve.

    config: every setting of `config.py` by name
    """
    app = App(__name__)
    app.config.from_mapping(config)
    app.config.from_mapping(
        SQLALCHEMY_DATABASE_URI=config["DATABASE_URL"],
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(),
        LOGIN_ENDPOINT="auth.pages.login",
    )
    if config["APP_ENV"] == "production":
        app.config["TRUSTED_HOSTS"] = [urlsplit(config["APP_URL"]).hostname, "localhost", "127.0.0.1"]
    observe.configure(config)
    if config["TRUSTED_PROXIES"]:
        behind_proxies = ProxyFix(app.wsgi_app, x_for=config["TRUSTED_PROXIES"])
        app.wsgi_app = behind_proxies  # type: ignore[method-assign]  # the documented way to wrap an application
    db.init_app(app)
    http.init_app(app)
    core_app.init_app(app)
    gate.init_app(app)
    for room, prefix in PREFIXES.items():
        app.register_blueprint(room, url_prefix=prefix or None)
    return app
