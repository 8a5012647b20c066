"""The doors of payments: the API and the providers' events, and two pages of its own."""

from flask import Blueprint

from saas_api.payments.routes.api import bp as api
from saas_api.payments.routes.pages import bp as pages

bp = Blueprint("payments", __name__)
bp.register_blueprint(api, url_prefix="/api/v1")
bp.register_blueprint(pages, url_prefix="/payments")
