"""The doors of the operator console; who is no operator finds nothing behind them."""

from flask import Blueprint

from saas_api.admin.routes import frame
from saas_api.admin.routes.audit import bp as audit
from saas_api.admin.routes.deliveries import bp as deliveries
from saas_api.admin.routes.home import bp as home
from saas_api.admin.routes.jobs import bp as jobs
from saas_api.admin.routes.money import bp as money
from saas_api.admin.routes.organizations import bp as organizations
from saas_api.admin.routes.plans import bp as plans
from saas_api.admin.routes.system import bp as system
from saas_api.admin.routes.users import bp as users

bp = Blueprint("admin", __name__)
for section in (home, organizations, users, plans, audit, money, deliveries, jobs, system):
    bp.register_blueprint(section)
bp.context_processor(frame.shown)
