"""The kinds of things that operators act on: where they are in the console, and how they are loaded."""

from collections.abc import Mapping

from saas_api.admin import (
    billing,
    invoices,
    mail,
    meters,
    organizations,
    payments,
    plans,
    queues,
    subscription_actions,
    users,
    webhooks,
)
from saas_api.admin.action_types import Subject
from saas_api.payments import refunds

SUBJECTS: Mapping[str, Subject] = {
    "organization": Subject(
        '/admin/organizations/<id("org"):organization_id>/{action}',
        organizations.get_organization,
        lambda organization: (organization.id,),
        "Organizations",
        "admin.organizations.index",
        "admin.organizations.show",
        lambda organization: organization.name,
    ),
    "credit_grant": Subject(
        '/admin/organizations/<id("org"):organization_id>/credits/<id("grt"):grant_id>/{action}',
        subscription_actions.get_grant,
        lambda detail: (detail.grant.organization_id, detail.grant.id),
        "Organizations",
        "admin.organizations.index",
    ),
    "platform_billing": Subject(
        "/admin/billing/{action}", lambda _session: None, lambda _: (None,), "Billing", "admin.billing.index"
    ),
    "billing_account": Subject(
        '/admin/billing/{action}/<id("org"):organization_id>',
        billing.get_account,
        lambda account: (account.organization_id,),
        "Billing",
        "admin.billing.index",
    ),
    "invoice": Subject(
        '/admin/invoices/<id("inv"):invoice_id>/{action}',
        invoices.get_invoice,
        lambda detail: (detail.invoice.organization_id, detail.invoice.id),
        "Invoices",
        "admin.invoices.index",
        "admin.invoices.show",
        lambda detail: detail.invoice.number or "Draft",
    ),
    "payment": Subject(
        '/admin/payments/<id("pay"):payment_id>/{action}',
        payments.get_payment,
        lambda detail: (detail.payment.id,),
        "Payments",
        "admin.payments.index",
        "admin.payments.show",
        lambda detail: f"Payment of {detail.organization_name}",
    ),
    "refund": Subject(
        '/admin/refunds/<id("rfd"):refund_id>/{action}',
        refunds.get_refund,
        lambda refund: (refund.id,),
        "Payments",
        "admin.payments.index",
    ),
    "provider_event": Subject(
        "/admin/payments/events/<provider>/<path:event_id>/{action}",
        payments.get_event,
        lambda event: (event.provider, event.event_id),
        "Events of providers",
        "admin.payments.events_index",
        "admin.payments.show_event",
        lambda event: f"Event of {event.provider}",
        is_tenant_owned=False,
    ),
    "endpoint": Subject(
        '/admin/deliveries/endpoints/<id("whe"):endpoint_id>/{action}',
        webhooks.get_endpoint,
        lambda detail: (detail.endpoint.organization_id, detail.endpoint.id),
        "Webhook deliveries",
        "admin.webhooks.index",
        "admin.webhooks.show_endpoint",
        lambda detail: f"Endpoint of {detail.organization_name}",
    ),
    "delivery": Subject(
        '/admin/deliveries/<id("whd"):delivery_id>/{action}',
        webhooks.get_delivery,
        lambda detail: (detail.delivery.organization_id, detail.delivery.id),
        "Webhook deliveries",
        "admin.webhooks.index",
        "admin.webhooks.show_delivery",
        lambda detail: f"Delivery of {detail.event.type}",
    ),
    "user": Subject(
        '/admin/users/<id("usr"):user_id>/{action}',
        users.get_user_detail,
        lambda detail: (detail.user.id,),
        "Users",
        "admin.users.index",
        "admin.users.show",
        lambda detail: detail.user.email,
    ),
    "plan": Subject(
        "/admin/plans/<version_id>/{action}",
        plans.get_plan,
        lambda plan: (plan.row.code,),
        "Plans",
        "admin.plans.index",
        "admin.plans.show",
        lambda plan: plan.row.version_id,
    ),
    "meter_catalogue": Subject(
        "/admin/meters/{action}",  # no code of a meter has a hyphen
        lambda _session: None,
        lambda _: (),
        "Meters",
        "admin.meters.index",
        is_tenant_owned=False,
    ),
    "meter": Subject(
        "/admin/meters/<meter_code>/{action}",
        meters.get_meter_detail,
        lambda detail: (detail.meter.code,),
        "Meters",
        "admin.meters.index",
        "admin.meters.show",
        lambda detail: detail.meter.code,
        is_tenant_owned=False,
    ),
    "mail": Subject(
        "/admin/mail/<uuid:mail_id>/{action}", mail.get_mail, lambda row: (row.id,), "Mail", "admin.mail.index"
    ),
    "schedule": Subject(
        "/admin/jobs/{action}",
        lambda _session: None,
        lambda _: (),
        "Jobs",
        "admin.queues.index",
        is_tenant_owned=False,
    ),
    "job": Subject(
        "/admin/jobs/{action}/<job>",
        queues.get_scheduled_job,
        lambda entry: (entry.job,),
        "Jobs",
        "admin.queues.index",
        is_tenant_owned=False,
    ),
    "failed_job": Subject(
        "/admin/jobs/failed/<job_id>/{action}",
        queues.get_failed_job,
        lambda job: (job.id,),
        "Jobs",
        "admin.queues.index",
        is_tenant_owned=False,
    ),
}
