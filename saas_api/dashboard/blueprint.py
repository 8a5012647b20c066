"""Registers the sections of the dashboard and its JSON API."""

from flask import Blueprint

from saas_api.dashboard import (
    api,
    audit,
    billing,
    data_export,
    home,
    invoice_list,
    invoices,
    keys,
    messages,
    navigation,
    payment_methods,
    plans,
    public,
    requests,
    settings,
    spend_cap,
    team,
    two_factor,
    usage,
    webhook_deliveries,
    webhook_endpoints,
)
from saas_api.usage import meter_file

SECTIONS = (
    home,
    usage,
    requests,
    messages,
    keys,
    webhook_endpoints,
    webhook_deliveries,
    billing,
    plans,
    invoice_list,
    invoices,
    payment_methods,
    spend_cap,
    team,
    audit,
    settings,
    data_export,
    two_factor,
)

bp = Blueprint("dashboard", __name__)
bp.register_blueprint(api.bp, url_prefix="/api/v1/dashboard")
bp.register_blueprint(public.bp)
for section in SECTIONS:
    bp.register_blueprint(section.bp, url_prefix="/dashboard")
bp.context_processor(navigation.template_context)
bp.add_app_template_filter(meter_file.plural_unit)
