"""The table of actions of operators: what each does, what its page says, and who may run it.

`action_views` serves the pages of the table, and `cli.action_commands` makes commands from its entries.
"""

from dataclasses import replace

from flask import url_for

from saas_api.admin import (
    billing,
    context,
    incidents,
    invoices,
    mail,
    meters,
    organization_actions,
    plan_editor,
    plans,
    queues,
    service_actions,
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
from saas_api.admin.users import DisableUserForm
from saas_api.billing import invoice_lifecycle
from saas_api.billing import invoices as billing_invoices
from saas_api.core import formatting
from saas_api.core.web import templating
from saas_api.payments import reconciliation, refunds

_ORGANIZATION_ACTIONS = (
    Action(
        "suspend",
        "organization",
        lambda organization: f"Suspend {organization.name}",
        "Its API keys are rejected from the next request on, with ORGANIZATION_SUSPENDED. Messages accepted before are "
        "still delivered. Members can still sign in, view data and pay, and see that the organization is suspended. "
        "The plan fee and minimum spend aren't charged while it is suspended.",
        "Suspend organization",
        lambda organization, _: f"{organization.name} suspended. Its API keys are rejected from now on.",
        organization_actions.suspend,
        ConfirmByNameForm,
        "danger",
        is_confirmed_by_name=True,
    ),
    Action(
        "resume",
        "organization",
        lambda organization: f"Resume {organization.name}",
        "Its API keys work again from the next request on. Restrictions because of unpaid invoices stay in place.",
        "Resume organization",
        "Suspension lifted.",
        organization_actions.resume,
    ),
    Action(
        "view-as",
        "organization",
        lambda organization: f"View {organization.name} as a viewer",
        "For 60 minutes, you see the dashboard as a member with the Viewer role does. You can't change anything. The "
        "organization's audit log shows that you viewed it, and why.",
        "View for 60 minutes",
        "",
        organization_actions.start_impersonation,
        next_page=lambda _: "/dashboard",
    ),
    Action(
        "limits",
        "organization",
        lambda organization: f"Change limits of {organization.name}",
        "Overrides the limits of its plan from the next request on. Leave a field empty to keep the plan's limit. "
        "Leave all fields empty to remove the overrides.",
        "Save limits",
        lambda _, overrides: (
            "Overrides removed. The plan's limits apply."
            if overrides.is_empty
            else "Limits saved. They apply to the next request."
        ),
        organization_actions.set_limit_overrides,
        LimitOverridesForm,
        preview=organization_actions.preview_limits,
    ),
    Action(
        "plan",
        "organization",
        lambda organization: f"Change the plan of {organization.name}",
        "Choose a plan, preview the effect on the current period's bill, then confirm. You can also choose plans that "
        "aren't public.",
        "Change plan",
        lambda _, change: (
            f"The plan changes to {change.version.name} on {formatting.format_date(change.effective_at)} (UTC)."
        ),
        organization_actions.change_plan,
        OperatorChangePlanForm,
        is_idempotent=True,
        preview=organization_actions.preview_plan_change,
    ),
    Action(
        "currency",
        "organization",
        lambda organization: f"Change the currency of {organization.name}",
        "Possible until its first invoice above zero. The organization moves to the Free plan in the new currency from "
        "the start of the current period. Spend cap and alert amounts are reset.",
        "Change currency",
        lambda _, change: f"Currency changed to {change.currency}.",
        organization_actions.set_currency,
        CurrencyForm,
    ),
    Action(
        "external-id",
        "organization",
        lambda organization: f"Set the external ID of {organization.name}",
        "Services can use the external ID in usage events instead of the organization ID. It must be unique.",
        "Save external ID",
        lambda _, changed: (
            f"External ID set to {changed.external_id}." if changed.external_id else "External ID removed."
        ),
        organization_actions.set_external_id,
        ExternalIdForm,
    ),
    Action(
        "credit",
        "organization",
        lambda organization: f"Add credit for {organization.name}",
        "Adds promotional credit to its wallet. Open invoices use it immediately, then the next invoices do. It is "
        "never paid out, and you can revoke what is left.",
        "Add credit",
        lambda _, grant: f"{formatting.format_money(grant.amount_minor, grant.currency)} credit added.",
        organization_actions.grant_credit,
        GrantCreditForm,
        is_idempotent=True,
        preview=organization_actions.preview_credit,
    ),
    Action(
        "payout",
        "organization",
        lambda organization: f"Pay out from the wallet of {organization.name}",
        "Without a bank reference, overpaid money is refunded through its payment provider. With a bank reference, you "
        "record a transfer that you already made. Promotional credit is never paid out.",
        "Pay out",
        lambda _, payout: f"{formatting.format_money(payout.amount_minor, payout.currency)} taken out of the wallet.",
        organization_actions.pay_out,
        PayoutForm,
        "danger",
        is_idempotent=True,
        preview=organization_actions.preview_credit,
    ),
    Action(
        "bill-now",
        "organization",
        lambda organization: f"Close the period of {organization.name} and invoice it",
        lambda organization: (
            "This is a preview. Nothing changes until you confirm. Then the current period ends, is invoiced without a "
            f"grace period, and the next period starts. Times are in {organization.timezone}."
        ),
        "Close period and invoice",
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
    "Close due periods",
    "This is a preview. Nothing changes until you confirm. Then the due periods are closed, and their invoices are "
    "created and sent.",
    "Close and invoice",
    lambda _, result: billing.describe_close(result),
    billing.close_periods,
    CloseForm,
    is_idempotent=True,
    preview=billing.preview_close,
)
_BILLING_ACTIONS = (
    _CLOSE,
    replace(
        _CLOSE, subject="billing_account", title=lambda account: f"Close due periods of {account.organization_name}"
    ),
    Action(
        "unpark",
        "billing_account",
        lambda account: f"Release billing of {account.organization_name}",
        "New invoices are finalized automatically again. Fix what the check found first. Drafts created in the "
        "meantime stay drafts until you finalize them.",
        "Release billing",
        lambda _, was_on_hold: (
            "Billing released. Review and finalize its drafts." if was_on_hold else "Billing was not on hold."
        ),
        context.in_write_session(invoice_lifecycle.release_billing),
        preview=billing.preview_release,
    ),
)
_INVOICE_ACTIONS = (
    Action(
        "finalize",
        "invoice",
        "Finalize draft",
        "The invoice gets its number and due date, can't be changed anymore, and is sent to the organization. Wallet "
        "credit is applied first.",
        "Finalize invoice",
        "Invoice finalized.",
        context.in_write_session(invoice_lifecycle.finalize_invoice),
        is_idempotent=True,
    ),
    Action(
        "redo",
        "invoice",
        "Recalculate draft",
        "Every line is recalculated from the ledger and the prices. The invoice stays a draft.",
        "Recalculate draft",
        "Draft recalculated.",
        context.in_write_session(invoice_lifecycle.recalculate_draft),
        is_idempotent=True,
    ),
    Action(
        "delete",
        "invoice",
        "Delete draft",
        "The draft is deleted and its period isn't billed. This can't be undone.",
        "Delete draft",
        "Draft deleted.",
        context.in_write_session(invoice_lifecycle.delete_draft),
        button_style="danger",
        is_idempotent=True,
        next_page=lambda _: url_for("admin.billing.index"),
    ),
    Action(
        "void",
        "invoice",
        "Void invoice",
        "The invoice is voided and keeps its number. Payment reminders stop, and wallet credit is returned. This can't "
        "be undone.",
        "Void invoice",
        "Invoice voided.",
        context.in_write_session(invoice_lifecycle.void_invoice),
        VoidForm,
        "danger",
        is_idempotent=True,
    ),
    Action(
        "write-off",
        "invoice",
        "Write off invoice",
        "The invoice is marked uncollectible and payment reminders stop. The organization can still pay it.",
        "Write off invoice",
        "Invoice written off.",
        context.in_write_session(billing_invoices.mark_uncollectible),
        button_style="danger",
        is_idempotent=True,
    ),
    Action(
        "credit",
        "invoice",
        lambda detail: f"Credit note on {detail.invoice.number or 'a draft'}",
        lambda detail: (
            "The credit reduces the amount due first. The rest is added to the wallet or refunded. You can credit up "
            f"to {formatting.format_money(detail.creditable_minor, detail.invoice.currency)}."
        ),
        "Create credit note",
        lambda _, view: f"Credit note {view.note.number} created.",
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
        "Check payment with provider",
        "Requests the current status from the provider and updates the payment. Confirmed money is applied to the "
        "invoice.",
        "Check with provider",
        lambda _, payment: f"Payment checked. Its status is {payment.status}.",
        context.with_actor_and_reason(reconciliation.recheck_payment),
    ),
    Action(
        "resolve",
        "payment",
        "Resolve payment",
        "The payment is canceled and nothing is applied to the invoice. Settle the money with the provider first.",
        "Resolve payment",
        lambda _, payment: f"Payment resolved. Its status is {payment.status}.",
        context.with_actor_and_reason(reconciliation.resolve_payment),
        button_style="danger",
    ),
    Action(
        "retry",
        "refund",
        "Retry refund",
        "The refund is requested from the provider again within a few minutes. Check why it failed first.",
        "Retry refund",
        "Refund will be retried within a few minutes.",
        context.in_write_session(refunds.retry_refund),
    ),
    Action(
        "paid-back",
        "refund",
        "Mark refund as paid",
        "The refund is recorded as paid. No money is sent, so make the transfer first.",
        "Mark as paid",
        "Refund marked as paid.",
        context.in_write_session(refunds.record_paid_back),
        PaidBackForm,
    ),
    Action(
        "to-wallet",
        "refund",
        "Convert refund to credit",
        "The amount is added to the organization's wallet and applied to open invoices first. You can pay it out "
        "later.",
        "Convert to credit",
        "Refund converted to wallet credit.",
        context.in_write_session(refunds.turn_into_credit),
        button_style="danger",
    ),
    Action(
        "take-up",
        "provider_event",
        "Retry event",
        "The event is processed again: the payment is checked with its provider.",
        "Retry event",
        "Event will be processed again.",
        context.with_actor_and_reason(reconciliation.retry_event),
    ),
    Action(
        "resolve",
        "provider_event",
        "Ignore event",
        "The event is marked as ignored and nothing is applied. Make sure you understand it first.",
        "Ignore event",
        "Event ignored.",
        context.with_actor_and_reason(reconciliation.ignore_event),
        button_style="danger",
    ),
)
_USER_ACTIONS = (
    Action(
        "end-sessions",
        "user",
        lambda detail: f"End all sessions of {detail.user.email}",
        "Signs the user out on all devices immediately. They can sign in again with their password. API keys keep "
        "working.",
        "End sessions",
        lambda _, count: f"{templating.pluralize(count, 'session')} ended.",
        users.end_user_sessions,
        button_style="danger",
    ),
    Action(
        "reset-mail",
        "user",
        lambda detail: f"Send a password reset to {detail.user.email}",
        "Sends the “Forgot password” email. Its link works for an hour, and earlier links stop working.",
        "Send password reset",
        "Password reset sent. The link works for an hour.",
        users.send_password_reset,
        role="support",
        is_idempotent=True,
    ),
    Action(
        "reset-two-factor",
        "user",
        lambda detail: f"Turn off two-factor sign-in of {detail.user.email}",
        "For a user who lost their phone and their recovery codes. Make sure that you talk to the user: whoever has "
        "the password can sign in afterwards. All sessions end, and the user gets an email.",
        "Turn off two-factor sign-in",
        lambda _, was_enabled: "Two-factor sign-in is off." if was_enabled else "It was off already.",
        users.reset_two_factor,
        button_style="danger",
    ),
    Action(
        "disable",
        "user",
        lambda detail: f"Disable {detail.user.email}",
        "The user is signed out on all devices and can't sign in. The API keys they created are revoked in every "
        "organization, unless you keep them.",
        "Disable user",
        lambda _, revoked: f"User disabled. {templating.pluralize(len(revoked), 'API key')} revoked.",
        users.disable_user,
        DisableUserForm,
        "danger",
        preview=users.preview_disable,
    ),
    Action(
        "enable",
        "user",
        lambda detail: f"Enable {detail.user.email}",
        "The user can sign in again with their password. Revoked API keys stay revoked.",
        "Enable user",
        lambda _, was_disabled: "User enabled." if was_disabled else "The user was not disabled.",
        users.enable_user,
    ),
)
_PLATFORM_ACTIONS = (
    Action(
        "retire",
        "plan",
        lambda plan: f"Restore {plan.content.name}" if plan.row.is_archived else f"Retire {plan.content.name}",
        lambda plan: (
            "Organizations can choose its newest version again, starting immediately."
            if plan.row.is_archived
            else "Organizations can no longer switch to this plan. Those already on it stay on it, at the same prices."
        ),
        lambda plan: "Restore plan" if plan.row.is_archived else "Retire plan",
        lambda plan, _: f"Plan {plan.row.code} {'restored' if plan.row.is_archived else 'retired'}.",
        plans.archive_plan,
        ArchiveForm,
        lambda plan: "primary" if plan.row.is_archived else "danger",
    ),
    Action(
        "send-again",
        "mail",
        "Resend email",
        lambda mail: (
            "The email is sent within a minute, and its attempts start over."
            if mail.is_resendable
            else "This email can't be resent: its content was erased because it was sent or contained a one-time link. "
            "The recipient can request a new link."
        ),
        "Resend email",
        "Email queued for sending.",
        context.in_write_session(mail.resend),
        role="support",
        is_idempotent=True,
    ),
    Action(
        "tick",
        "schedule",
        "Run scheduled jobs",
        "A worker runs every scheduled job that is due. Runs that already happened aren't repeated.",
        "Run scheduled jobs",
        queues.QUEUED_NOTICE,
        context.in_write_session(queues.enqueue_schedule),
    ),
    Action(
        "run",
        "job",
        lambda entry: f"Run {entry.job} now",
        lambda entry: f"{entry.description} It runs as soon as a worker is free, in addition to its schedule.",
        "Run job",
        queues.QUEUED_NOTICE,
        context.in_write_session(queues.enqueue_run),
    ),
    Action(
        "retry",
        "failed_jobs",
        "Retry all failed jobs",
        "Every failed job is added to the end of its queue. Jobs only process work that is still due.",
        "Retry failed jobs",
        lambda _, count: f"{templating.pluralize(count, 'job')} queued again.",
        context.in_write_session(queues.requeue_all_failed),
    ),
    Action(
        "retry",
        "failed_job",
        lambda job: f"Retry {job.job}",
        "The job is added to the end of its queue. It only processes work that is still due, so nothing runs twice.",
        "Retry job",
        "Job queued again.",
        context.in_write_session(queues.requeue_failed),
    ),
)
ACTIONS: tuple[Action, ...] = (
    *_ORGANIZATION_ACTIONS,
    *subscription_actions.ACTIONS,
    *_BILLING_ACTIONS,
    *_INVOICE_ACTIONS,
    *_PAYMENT_ACTIONS,
    *webhooks.ACTIONS,
    *_USER_ACTIONS,
    *meters.ACTIONS,
    *plan_editor.ACTIONS,
    *service_actions.ACTIONS,
    *_PLATFORM_ACTIONS,
    *incidents.ACTIONS,
)


def get_action(subject: str, name: str) -> Action:
    """The entry of the table; KeyError for an unknown one."""
    return _BY_KEY[subject, name]


_BY_KEY = {(action.subject, action.name): action for action in ACTIONS}
