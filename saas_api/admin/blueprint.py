"""Registers the sections of the operator console; callers without an operator role get 404."""

from flask import Blueprint

from saas_api.admin import (
    access_log,
    action_views,
    actions,
    audit,
    billing,
    cell_pages,
    home,
    incidents,
    invoices,
    mail,
    meters,
    navigation,
    organizations,
    payments,
    plan_editor,
    plans,
    queues,
    requests,
    revenue,
    search,
    services,
    system,
    users,
    webhooks,
)

SECTIONS = (
    home,
    search,
    revenue,
    organizations,
    action_views,
    users,
    plans,
    plan_editor,
    meters,
    services,
    audit,
    billing,
    invoices,
    payments,
    webhooks,
    requests,
    queues,
    incidents,
    mail,
    system,
)

bp = Blueprint("admin", __name__)
for section in SECTIONS:
    bp.register_blueprint(section.bp)
bp.before_request(cell_pages.select_cell)
bp.after_request(access_log.record_read)
bp.app_context_processor(navigation.template_context)  # also for the account page of an operator without organization
bp.context_processor(lambda: {"action_url": action_views.action_url, "get_action": actions.get_action})
