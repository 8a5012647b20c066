"""The billing pages: where things stand, plans, invoices and how to pay them, the spend cap, the wallet."""

from flask import Blueprint

from saas_api.dashboard.routes.billing.invoices import bp as invoices
from saas_api.dashboard.routes.billing.lines import bp as lines
from saas_api.dashboard.routes.billing.overview import bp as overview
from saas_api.dashboard.routes.billing.plans import bp as plans
from saas_api.dashboard.routes.billing.spending import bp as spending
from saas_api.dashboard.routes.billing.wallet import bp as wallet

bp = Blueprint("billing", __name__)
for _section in (overview, plans, invoices, lines, spending, wallet):
    bp.register_blueprint(_section)
