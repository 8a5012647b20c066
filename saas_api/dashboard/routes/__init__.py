"""The doors of the dashboard: its JSON, the site around it, and pages for each thing a tenant has."""

from flask import Blueprint

from saas_api.dashboard.routes.api import bp as api
from saas_api.dashboard.routes.billing import bp as billing
from saas_api.dashboard.routes.home import bp as home
from saas_api.dashboard.routes.keys import bp as keys
from saas_api.dashboard.routes.messages import bp as messages
from saas_api.dashboard.routes.people import bp as people
from saas_api.dashboard.routes.settings import bp as settings
from saas_api.dashboard.routes.site import bp as site
from saas_api.dashboard.routes.site import frame
from saas_api.dashboard.routes.usage import bp as usage
from saas_api.dashboard.routes.webhooks import bp as webhooks

SECTIONS = (home, usage, messages, keys, webhooks, billing, people, settings)

bp = Blueprint("dashboard", __name__)
bp.register_blueprint(api, url_prefix="/api/v1/dashboard")
bp.register_blueprint(site)
for section in SECTIONS:
    bp.register_blueprint(section, url_prefix="/dashboard")
bp.context_processor(frame.shown)
