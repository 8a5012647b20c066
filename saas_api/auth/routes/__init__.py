"""The doors to sign-up and sign-in: for programs, and for people in a browser."""

from flask import Blueprint

from saas_api.auth.routes.api import bp as api
from saas_api.auth.routes.pages import bp as pages

bp = Blueprint("auth", __name__)
bp.register_blueprint(api, url_prefix="/api/v1")
bp.register_blueprint(pages)
