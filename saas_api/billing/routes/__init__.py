"""The doors of billing."""

from flask import Blueprint

from saas_api.billing.routes.invoices import bp as invoices
from saas_api.billing.routes.usage import bp as usage

bp = Blueprint("billing", __name__)
bp.register_blueprint(invoices)
bp.register_blueprint(usage)
