"""The application factory."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from werkzeug.middleware.proxy_fix import ProxyFix

from saas_api.accounts import jobs as accounts_jobs  # noqa: F401 - registers jobs
from saas_api.billing import jobs as billing_jobs  # noqa: F401 - registers jobs
from saas_api.core import brand, observability, tracing
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.web import app as web_app
from saas_api.core.web import http
from saas_api.core.web.app import App
from saas_api.gate import hooks
from saas_api.mail import jobs as mail_jobs  # noqa: F401 - registers jobs
from saas_api.messages import jobs as messages_jobs  # noqa: F401 - registers jobs
from saas_api.metering import jobs as metering_jobs  # noqa: F401 - registers jobs
from saas_api.ops import jobs as ops_jobs  # noqa: F401 - registers jobs
from saas_api.payments import jobs as payments_jobs  # noqa: F401 - registers jobs
from saas_api.services import jobs as services_jobs  # noqa: F401 - registers jobs
from saas_api.usage import jobs as usage_jobs  # noqa: F401 - registers jobs
from saas_api.webhooks import jobs as webhooks_jobs  # noqa: F401 - registers jobs


def create_app(config: Mapping[str, Any], *, with_routes: bool = True) -> App:
    """Create the application with all jobs.

    config: every setting of `config.py`, by name; PROCESS and VERSION name it in PostgreSQL's list of connections
    with_routes: False for a process that serves nothing, which saves it the memory of views and pages
    raises: ValueError when SERVICES names a service that there is not
    """
    app = App("saas_api")
    app.config.from_mapping(config)
    process = f"{config.get('PROCESS', '')} {config['VERSION']}"
    options = engine.engine_options(process, has_pooler=config["DATABASE_POOLER"] != "none")
    app.config.from_mapping(
        SQLALCHEMY_DATABASE_URI=config["DATABASE_URL"],
        SQLALCHEMY_BINDS={name: {"url": url, **options} for name, url in config["CELLS"].items()},
        SQLALCHEMY_ENGINE_OPTIONS=options,
        LOGIN_ENDPOINT="accounts_pages.login_form",
    )
    own_host = urlsplit(config["APP_URL"]).hostname
    app.config["TRUSTED_HOSTS"] = [own_host, *config["APP_HOSTS"], "localhost", "127.0.0.1"]
    observability.configure_logging(config)
    tracing.init(config)
    brand.init_app(app)
    if config["TRUSTED_PROXIES"]:
        behind_proxies = ProxyFix(app.wsgi_app, x_for=config["TRUSTED_PROXIES"])
        app.wsgi_app = behind_proxies  # type: ignore[method-assign]  # the documented way to wrap an application
    db.init_app(app)
    http.init_app(app)
    web_app.init_app(app)
    hooks.init_app(app)
    if with_routes:
        from saas_api import routes  # noqa: PLC0415 - see above

        routes.register(app, config["SERVICES"])
    return app
