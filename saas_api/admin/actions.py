"""The table of actions of operators: what each does, what its page says, and who may run it.

`action_views` serves the pages of the table, and `cli.action_commands` makes commands from its entries.
"""

import functools
from dataclasses import replace

from flask import url_for

from saas_api.admin import (
    billing,
    context,
    invoices,
    mail,
    meters,
    organization_actions,
    plans,
    queues,
    services,
    subscription_actions,
    users,
    webhooks,
)
from saas_api.admin.action_types import Action
from saas_api.admin.billing import CloseForm
from saas_api.admin.invoices import CreditNoteForm, VoidForm
from saas_api.admin.organization_actions import (
    BillNowForm,
    ConfirmByNameForm,
    CurrencyForm,
    ExternalIdForm,
    GrantCreditForm,
    LimitOverridesForm,
    OperatorChangePlanForm,
    PayoutForm,
)
from saas_api.admin.payments import PaidBackForm
from saas_api.admin.plans import ArchiveForm
from saas_api.admin.services import CreateServiceForm, OpenApiForm, RotateTokenForm
from saas_api.admin.users import DisableUserForm
from saas_api.billing import invoice_lifecycle
from saas_api.billing import invoices as billing_invoices
from saas_api.core import formatting
from saas_api.core.web import templating
from saas_api.payments import reconciliation, refunds
from saas_api.services import services as service_changes

_ORGANIZATION_ACTIONS = (
    Action(
        "suspend",
        "organization",
        lambda organization: f"Suspend {organization.name}",
        "Its API keys are refused from the next request on, with ORGANIZATION_SUSPENDED. Messages that were accepted "
        "are still delivered. Its people still sign in, read and pay, and see that they are suspended. Neither base "
        "nor minimum is charged for the time.",
        "Suspend",
        lambda organization, _: f"{organization.name} is suspended. Its API keys are refused from now on.",
        organization_actions.suspend,
        ConfirmByNameForm,
        "danger",
        is_confirmed_by_name=True,
    ),
    Action(
        "resume",
        "organization",
        lambda organization: f"Resume {organization.name}",
        "Its API keys work again from the next request on. What unpaid invoices have led to stays as it is.",
        "Resume",
        "The suspension is lifted.",
        organization_actions.resume,
    ),
    Action(
        "view-as",
        "organization",
        lambda organization: f"View {organization.name} as a viewer",
        "For 60 minutes you see its dashboard as a member with the role viewer does. Nothing can be changed, and the "
        "organization reads in its audit log that you looked, and why.",
        "View for 60 minutes",
        "",
        organization_actions.start_impersonation,
        next_page=lambda _: "/dashboard",
    ),
    Action(
        "limits",
        "organization",
        lambda organization: f"Limits of {organization.name}",
        "Exceptions to its plan, from the next request on. Leave a field empty where the plan's own limit is to hold; "
        "leave all empty to take the exceptions back.",
        "Save limits",
        lambda _, overrides: (
            "The plan's limits hold again." if overrides.is_empty else "The limits hold from the next request on."
        ),
        organization_actions.set_limit_overrides,
        LimitOverridesForm,
        preview=organization_actions.preview_limits,
    ),
    Action(
        "plan",
        "organization",
        lambda organization: f"Change the plan of {organization.name}",
        "Choose a plan, see what the change does to the running period's bill, then confirm. You may choose plans that "
        "are not on offer.",
        "Change the plan",
        lambda _, change: f"On {change.version.name} from {formatting.format_date(change.effective_at)} on (UTC).",
        organization_actions.change_plan,
        OperatorChangePlanForm,
        is_idempotent=True,
        preview=organization_actions.preview_plan_change,
    ),
    Action(
        "currency",
        "organization",
        lambda organization: f"Change the currency of {organization.name}",
        "Possible until its first invoice above zero. It is on the plan Free in the new currency from the start of the "
        "running period on; amounts of its spend cap and alerts are reset.",
        "Change the currency",
        lambda _, change: f"The currency is {change.currency}.",
        organization_actions.set_currency,
        CurrencyForm,
    ),
    Action(
        "external-id",
        "organization",
        lambda organization: f"Name {organization.name} for services",
        "Services name it so in usage events, beside its id. Another organization cannot have the same name.",
        "Set the external id",
        lambda _, changed: f"The external id is {changed.external_id}." if changed.external_id else "Removed.",
        organization_actions.set_external_id,
        ExternalIdForm,
    ),
    Action(
        "credit",
        "organization",
        lambda organization: f"Add credit for {organization.name}",
        "Promotional money for its wallet. Open invoices use it up at once, then the next ones; it is never paid "
        "out. What is left of it can be revoked.",
        "Add credit",
        lambda _, grant: f"{formatting.format_money(grant.amount_minor, grant.currency)} added. Invoices use it up.",
        organization_actions.grant_credit,
        GrantCreditForm,
        is_idempotent=True,
        preview=organization_actions.preview_credit,
    ),
    Action(
        "payout",
        "organization",
        lambda organization: f"Pay money out of the wallet of {organization.name}",
        "Without a bank reference, what was paid above an amount due goes back through the provider it was paid by. "
        "With one, you have paid it back by hand. Promotional credit is never paid out.",
        "Pay out",
        lambda _, payout: f"{formatting.format_money(payout.amount_minor, payout.currency)} are out of the wallet.",
        organization_actions.pay_out,
        PayoutForm,
        "danger",
        is_idempotent=True,
        preview=organization_actions.preview_credit,
    ),
    Action(
        "bill-now",
        "organization",
        lambda organization: f"Bill {organization.name} now",
        lambda organization: (
            "A dry run: nothing was written. Confirming ends the running period at that moment, invoices it without "
            f"grace, and begins the next period. Times are in {organization.timezone}."
        ),
        "Bill now",
        lambda _, result: organization_actions.describe_close(result),
        organization_actions.bill_now,
        BillNowForm,
        "danger",
        is_idempotent=True,
        is_confirmed_by_name=True,
        preview=organization_actions.preview_bill_now,
    ),
)
_CLOSE = Action(
    "close",
    "platform_billing",
    "Close what is due",
    "This is a dry run: nothing is written until you confirm below. Closing ends the periods, writes their invoices "
    "and sends them.",
    "Close and invoice now",
    lambda _, result: billing.describe_close(result),
    billing.close_periods,
    CloseForm,
    is_idempotent=True,
    preview=billing.preview_close,
)
_BILLING_ACTIONS = (
    _CLOSE,
    replace(
        _CLOSE, subject="billing_account", title=lambda account: f"Close what is due for {account.organization_name}"
    ),
    Action(
        "unpark",
        "billing_account",
        lambda account: f"Release the billing of {account.organization_name}",
        "Its invoices are finalized again. Correct what the check found first; drafts that were written meanwhile "
        "wait for you to finalize them.",
        "Release",
        lambda _, was_on_hold: (
            "Billing released. Review and finalize its drafts." if was_on_hold else "It was not on hold."
        ),
        context.in_write_session(invoice_lifecycle.release_billing),
        preview=billing.preview_release,
    ),
)
_INVOICE_ACTIONS = (
    Action(
        "finalize",
        "invoice",
        "Finalize the draft",
        "The invoice gets its number and its due date, is frozen, and is sent to the organization. "
        "What is in its wallet is used first.",
        "Finalize",
        "The invoice is final.",
        context.in_write_session(invoice_lifecycle.finalize_invoice),
        is_idempotent=True,
    ),
    Action(
        "redo",
        "invoice",
        "Recalculate the draft",
        "Every line is worked out again from the ledger and the prices. The draft stays a draft.",
        "Recalculate it",
        "The draft was recalculated.",
        context.in_write_session(invoice_lifecycle.recalculate_draft),
        is_idempotent=True,
    ),
    Action(
        "delete",
        "invoice",
        "Delete the draft",
        "The draft is gone and its period is not billed. This cannot be undone.",
        "Delete the draft",
        "The draft is deleted.",
        context.in_write_session(invoice_lifecycle.delete_draft),
        button_style="danger",
        is_idempotent=True,
        next_page=lambda _: url_for("admin.billing.index"),
    ),
    Action(
        "void",
        "invoice",
        "Void the invoice",
        "The invoice is void, keeps its number, and is pursued no longer. What the wallet paid of it goes back "
        "into the wallet. This cannot be undone.",
        "Void the invoice",
        "The invoice is void.",
        context.in_write_session(invoice_lifecycle.void_invoice),
        VoidForm,
        "danger",
        is_idempotent=True,
    ),
    Action(
        "write-off",
        "invoice",
        "Write the invoice off",
        "The invoice counts as uncollectible and is pursued no longer. A payment that still comes is taken.",
        "Write it off",
        "The invoice is written off.",
        context.in_write_session(billing_invoices.mark_uncollectible),
        button_style="danger",
        is_idempotent=True,
    ),
    Action(
        "credit",
        "invoice",
        lambda detail: f"Credit note on {detail.invoice.number or 'a draft'}",
        lambda detail: (
            "It lowers what is due first. The rest goes into the organization's wallet, or back to where it was paid "
            f"from. Up to {formatting.format_money(detail.creditable_minor, detail.invoice.currency)} can be credited."
        ),
        "Write the credit note",
        lambda _, view: f"Credit note {view.note.number} is written.",
        context.in_write_session(invoices.create_credit_note),
        CreditNoteForm,
        is_idempotent=True,
        preview=invoices.preview_credit_note,
    ),
)
_PAYMENT_ACTIONS = (
    Action(
        "ask",
        "payment",
        "Ask the provider again",
        "The provider is asked now, and the payment becomes what the answer says: money that it confirms is booked.",
        "Ask the provider",
        lambda _, payment: f"The provider was asked. The payment is {payment.status} now.",
        context.with_actor_and_reason(reconciliation.recheck_payment),
    ),
    Action(
        "resolve",
        "payment",
        "Resolve the payment",
        "The payment is canceled and nothing is booked. Do this after the money was put right with the provider.",
        "Resolve the payment",
        lambda _, payment: f"Resolved. The payment is {payment.status} now.",
        context.with_actor_and_reason(reconciliation.resolve_payment),
        button_style="danger",
    ),
    Action(
        "retry",
        "refund",
        "Ask the provider for the refund again",
        "The refund is requested once more within a few minutes. Do this after you have read why it failed.",
        "Ask again",
        "The refund is requested again.",
        context.in_write_session(refunds.retry_refund),
    ),
    Action(
        "paid-back",
        "refund",
        "Record that the refund was paid back by hand",
        "The refund counts as paid. Do this after the transfer has left your account; nothing is sent from here.",
        "Record it",
        "The refund is recorded as paid back.",
        context.in_write_session(refunds.record_paid_back),
        PaidBackForm,
    ),
    Action(
        "to-wallet",
        "refund",
        "Turn the refund into credit",
        "The money goes into the organization's wallet, which pays its open invoices first. It can be paid out later.",
        "Turn it into credit",
        "The money is in the wallet.",
        context.in_write_session(refunds.turn_into_credit),
        button_style="danger",
    ),
    Action(
        "take-up",
        "provider_event",
        "Take the event up again",
        "The event is processed again: its provider is asked about the payment that it names.",
        "Take it up again",
        "The event is taken up again.",
        context.with_actor_and_reason(reconciliation.retry_event),
    ),
    Action(
        "resolve",
        "provider_event",
        "Resolve the event",
        "The event is laid aside as ignored and nothing is booked. Do this after you have understood it.",
        "Resolve the event",
        "The event is resolved.",
        context.with_actor_and_reason(reconciliation.ignore_event),
        button_style="danger",
    ),
)
_WEBHOOK_ACTIONS = (
    Action(
        "disable",
        "endpoint",
        "Disable the endpoint",
        lambda detail: (
            "Nothing is sent to it any more, and what waits for it is canceled: "
            f"{templating.pluralize(detail.health.waiting, 'delivery', 'deliveries')}. The organization can enable it "
            "again."
        ),
        "Disable the endpoint",
        "The endpoint is disabled.",
        functools.partial(webhooks.set_endpoint_enabled, is_enabled=False),
        button_style="danger",
    ),
    Action(
        "enable",
        "endpoint",
        "Enable the endpoint",
        "New events are sent to it again, and its failures are forgotten. What it missed is not sent; the organization "
        "can recover that.",
        "Enable the endpoint",
        "The endpoint is enabled.",
        functools.partial(webhooks.set_endpoint_enabled, is_enabled=True),
    ),
    Action(
        "resend",
        "delivery",
        "Resend the delivery",
        "The event is sent once more to the same endpoint, with the same event id, as a new delivery. A receiver that "
        "has handled it knows it by that id.",
        "Resend",
        "It is sent again: this is the new delivery.",
        webhooks.resend_delivery,
        role="support",
        is_idempotent=True,
        next_page=lambda delivery: url_for("admin.webhooks.show_delivery", delivery_id=delivery.id),
    ),
)
_USER_ACTIONS = (
    Action(
        "end-sessions",
        "user",
        lambda detail: f"End all sessions of {detail.user.email}",
        "They are signed out everywhere on the next click and sign in again with their password. API keys go on "
        "working.",
        "End sessions",
        lambda _, count: f"{templating.pluralize(count, 'session')} ended.",
        users.end_user_sessions,
        button_style="danger",
    ),
    Action(
        "reset-mail",
        "user",
        lambda detail: f"Send a reset mail to {detail.user.email}",
        "They get the same mail as after “Forgot password”. Its link works for an hour; earlier links stop working.",
        "Send reset mail",
        "The mail is on its way. Its link works for an hour.",
        users.send_password_reset,
        role="support",
        is_idempotent=True,
    ),
    Action(
        "disable",
        "user",
        lambda detail: f"Disable {detail.user.email}",
        "They are signed out everywhere and cannot sign in. The API keys they created are revoked in every "
        "organization, unless you keep them.",
        "Disable",
        lambda _, revoked: f"Disabled. {templating.pluralize(len(revoked), 'API key')} revoked.",
        users.disable_user,
        DisableUserForm,
        "danger",
        preview=users.preview_disable,
    ),
    Action(
        "enable",
        "user",
        lambda detail: f"Enable {detail.user.email}",
        "They can sign in again with their password. Revoked API keys stay revoked.",
        "Enable",
        lambda _, was_disabled: "Enabled." if was_disabled else "The account was not disabled.",
        users.enable_user,
    ),
)
_PLATFORM_ACTIONS = (
    Action(
        "retire",
        "plan",
        lambda plan: f"Offer {plan.content.name} again" if plan.row.is_archived else f"Retire {plan.content.name}",
        lambda plan: (
            "Its newest version can be chosen again, at once."
            if plan.row.is_archived
            else "No organization can change to this plan any more. Those on it stay on it, at the same prices."
        ),
        lambda plan: "Offer again" if plan.row.is_archived else "Retire plan",
        lambda plan, _: f"The plan {plan.row.code} is offered {'again' if plan.row.is_archived else 'no longer'}.",
        plans.archive_plan,
        ArchiveForm,
        lambda plan: "primary" if plan.row.is_archived else "danger",
    ),
    Action(
        "send-again",
        "mail",
        "Send the mail again",
        lambda mail: (
            "It leaves within a minute, with all its tries before it."
            if mail.is_resendable
            else "What it said is erased, because it has left or held a one-time link. The person can ask for a new "
            "link; sending is refused."
        ),
        "Send again",
        "The mail is on its way again.",
        context.in_write_session(mail.resend),
        role="support",
        is_idempotent=True,
    ),
    Action(
        "tick",
        "schedule",
        "Run a tick",
        "A worker runs every job of the timetable whose newest slot nobody has taken. Slots that were run are not run "
        "again.",
        "Run a tick",
        queues.QUEUED_NOTICE,
        context.in_write_session(queues.enqueue_schedule),
    ),
    Action(
        "run",
        "job",
        lambda entry: f"Run {entry.job} now",
        lambda entry: f"{entry.description} A worker runs it as soon as one is free, in addition to its schedule.",
        "Run it now",
        queues.QUEUED_NOTICE,
        context.in_write_session(queues.enqueue_run),
    ),
    Action(
        "retry",
        "failed_job",
        lambda job: f"Retry {job.job}",
        "The job is put at the end of its queue. It asks what is due, so nothing is done twice.",
        "Retry",
        "The job is queued again.",
        context.in_write_session(queues.requeue_failed),
    ),
)
_SERVICE_ACTIONS = (
    Action(
        "create",
        "services",
        "Create a service",
        "A service is a program outside this application that serves metered calls. Its token is shown once, right "
        "after this, and opens the endpoints for services, across all organizations.",
        "Create service",
        "",
        context.in_write_session(service_changes.create_service),
        CreateServiceForm,
        show_result=services.show_token,
    ),
    Action(
        "rotate",
        "service",
        lambda detail: f"Rotate the token of {detail.name}",
        "The service gets a new token, which is shown once, right after this. The old one stays valid as long as you "
        "choose, so that you can deploy the new one first.",
        "Rotate token",
        "",
        context.in_write_session(services.rotate_token),
        RotateTokenForm,
        preview=services.preview_rotation,
        show_result=services.show_token,
    ),
    Action(
        "revoke",
        "service",
        lambda detail: f"Revoke {detail.name}",
        "Its tokens are refused from its next call on, in every process: customers of this service are no longer "
        "served. This cannot be undone, and the name stays taken.",
        "Revoke service",
        lambda detail, _: f"{detail.name} is revoked. Its tokens are refused from now on.",
        context.in_write_session(service_changes.revoke_service),
        ConfirmByNameForm,
        "danger",
        is_confirmed_by_name=True,
    ),
    Action(
        "openapi",
        "service",
        lambda detail: f"OpenAPI document of {detail.name}",
        "The reference shows it beside ours, with the customer's key filled in. An empty text removes it.",
        "Save document",
        "The document is saved.",
        context.in_write_session(services.set_openapi),
        OpenApiForm,
    ),
)
ACTIONS: tuple[Action, ...] = (
    *_ORGANIZATION_ACTIONS,
    *subscription_actions.ACTIONS,
    *_BILLING_ACTIONS,
    *_INVOICE_ACTIONS,
    *_PAYMENT_ACTIONS,
    *_WEBHOOK_ACTIONS,
    *_USER_ACTIONS,
    *meters.ACTIONS,
    *_SERVICE_ACTIONS,
    *_PLATFORM_ACTIONS,
)


def get_action(subject: str, name: str) -> Action:
    """The entry of the table; KeyError for an unknown one."""
    return _BY_KEY[subject, name]


_BY_KEY = {(action.subject, action.name): action for action in ACTIONS}
