"""The doors of billing."""

from flask import Blueprint

from saas_api.billing.routes.account import bp as account
from saas_api.billing.routes.explain import bp as explain
from saas_api.billing.routes.invoices import bp as invoices
from saas_api.billing.routes.plans import bp as plans
from saas_api.billing.routes.usage import bp as usage
from saas_api.billing.routes.wallet import bp as wallet

bp = Blueprint("billing", __name__)
bp.register_blueprint(account)
bp.register_blueprint(explain)
bp.register_blueprint(invoices)
bp.register_blueprint(plans)
bp.register_blueprint(usage)
bp.register_blueprint(wallet)
