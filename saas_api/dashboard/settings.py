"""Settings of the organization and of the user's account."""

import functools
import zoneinfo
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Blueprint, Response, g, request
from marshmallow import fields, validate

from saas_api.accounts import billing_email, organizations, passwords, sessions, throttles, users
from saas_api.accounts.schemas import ChangePasswordIn, TimeZoneField
from saas_api.billing import organization_closing, profiles
from saas_api.billing.profiles import BillingDetails
from saas_api.billing.schemas import CloseOrganizationIn
from saas_api.core import formatting
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import Forbidden
from saas_api.core.fields import DisplayName, Email, Name, StrictSchema, Text
from saas_api.core.web import pages, templating
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context

bp = Blueprint("settings", __name__)
_AREAS = ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")
_LINES, _LINE = 6, 80


MAX_LISTED_SESSIONS = 50


class PostalAddressField(Text):
    """A postal address, one line per line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=_LINES * (_LINE + 1), multiline=True, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > _LINES or any(len(line) > _LINE for line in lines):
            raise ma.ValidationError(f"At most {_LINES} lines of {_LINE} characters.")
        return lines


class OrganizationForm(StrictSchema):
    """Settings and billing details of the organization; a time zone applies from the next billing period."""

    name = DisplayName(required=True, error_messages={"required": "Enter a name."})
    billing_email = Email(load_default=None)
    timezone = TimeZoneField(required=True, error_messages={"required": "Choose a time zone."})
    locale = fields.String(
        required=True,
        validate=validate.OneOf(formatting.LOCALES, error="Choose a format."),
        error_messages={"required": "Choose a format."},
    )
    legal_name = Name(load_default=None, maximum=120)
    address = PostalAddressField(load_default=list)
    tax_id = Text(load_default=None, maximum=40)


class ProfileForm(StrictSchema):
    """The user's name."""

    full_name = DisplayName(load_default="", minimum=0)


class ChangeEmailForm(StrictSchema):
    """The new email address."""

    email = Email(required=True, error_messages={"required": "Enter an email address."})


@functools.cache
def list_time_zones() -> list[str]:
    """Returns the selectable time zones: UTC, then those named after a place."""
    named = sorted(name for name in zoneinfo.available_timezones() if name.partition("/")[0] in _AREAS)
    return ["UTC", *named]


@functools.cache
def list_locales() -> list[tuple[str, str]]:
    """Returns the selectable locales, each with a sample."""
    return [(locale, formatting.describe_locale(locale)) for locale in formatting.LOCALES]


@bp.before_request
def _refuse_closing_in_test_mode() -> None:
    if request.endpoint == "dashboard.settings.close_organization":
        context.require_live_mode()


@bp.get("/settings")
@require_permission("organization:read")
def organization_settings(form: Form | None = None) -> Response:
    """Show settings and billing details of the organization."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    details = profiles.get_billing_details(engine.session(), organization.id)
    values = {
        "name": organization.name,
        "billing_email": organization.billing_email,
        "timezone": organization.timezone,
        "locale": organization.locale,
        "legal_name": details.name,
        "address": "\n".join(details.address),
        "tax_id": details.tax_id,
    }
    zone_names = (
        list_time_zones() if organization.timezone in list_time_zones() else [organization.timezone, *list_time_zones()]
    )
    return pages.render_page(
        "dashboard/settings/organization.html",
        organization=organization,
        buyer=details,
        zones=[(name, name) for name in zone_names],
        locales=list_locales(),
        form=form or Form(values),
    )


@bp.post("/settings")
@require_permission("organization:write")
@form_view(OrganizationForm(), form=organization_settings)
def update_organization(body: dict[str, Any]) -> Any:
    """Change the organization's settings."""
    changes = {name: body[name] for name in ("name", "billing_email", "timezone", "locale")}
    organizations.update_organization(engine.session(), g.principal, changes)
    profiles.set_billing_details(
        engine.session(), g.principal, BillingDetails(body["legal_name"], body["address"], body["tax_id"])
    )
    return pages.redirect_to("dashboard.settings.organization_settings", _notice="Changes saved.")


@bp.post("/settings/billing-email")
@require_permission("organization:write")
@form_view(EmptyForm(), form=organization_settings)
def send_billing_email_link(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send the link that verifies the billing address again."""
    billing_email.request_verification(engine.session(), g.principal)
    return pages.redirect_to("dashboard.settings.organization_settings", _notice="We sent a new link.")


@bp.get("/settings/close")
@require_permission("organization:close")
def close_form(form: Form | None = None) -> Response:
    """Show what is open before the organization is closed, and the form that closes it."""
    preview = organization_closing.preview_closing(g.principal.organization_id)
    return pages.render_page("dashboard/settings/close.html", preview=preview, form=form or Form())


@bp.post("/settings/close")
@require_permission("organization:close")
@form_view(CloseOrganizationIn(), form=close_form, is_idempotent=True)
def close_organization(body: dict[str, Any]) -> Any:
    """Close the organization for good."""
    organization_closing.close_as_owner(engine.session(), g.principal, body["name"])
    return pages.redirect_to("dashboard.billing.index", _notice="Organization closed.")


@bp.get("/account")
@require_permission(None)
def account_settings(form: Form | None = None) -> Response:
    """Show the user's name, email address and sessions; also to an operator without an organization."""
    settings = users.get_settings(g.principal)
    active_sessions = sessions.list_sessions(g.principal, PageRequest(MAX_LISTED_SESSIONS)).items
    return pages.render_page(
        "dashboard/settings/account.html",
        user=settings.user,
        email_change=settings.email_change,
        two_factor_enabled_at=settings.two_factor_enabled_at,
        sessions=active_sessions,
        current=g.principal.session_id,
        zone=context.current_zone() if g.principal.has_organization else "UTC",
        form=form or Form({"full_name": settings.user.full_name}),
        look=Form(g.preferences),
    )


@bp.post("/account")
@require_permission(None)
@form_view(ProfileForm(), form=account_settings)
def update_name(body: dict[str, Any]) -> Any:
    """Change the user's name."""
    users.update_name(g.principal, body["full_name"])
    return pages.redirect_to("dashboard.settings.account_settings", _notice="Changes saved.")


@bp.get("/account/password")
@require_permission(None)
def change_password_form(form: Form | None = None) -> Response:
    """Show the form that changes the password."""
    return pages.render_page("dashboard/settings/password.html", form=form or Form())


@bp.post("/account/password")
@require_permission(None)
@throttles.limit_password_changes
@form_view(ChangePasswordIn(), form=change_password_form)
def change_password(body: dict[str, Any]) -> Any:
    """Change the user's password and end their other sessions."""
    passwords.change_password(g.principal, **body)
    notice = "Password changed. Your other sessions have ended."
    return pages.redirect_to("dashboard.settings.account_settings", _notice=notice)


@bp.get("/account/email")
@require_permission(None)
def change_email_form(form: Form | None = None) -> Response:
    """Show the form that changes the email address."""
    return pages.render_page("dashboard/settings/email.html", user=users.get_user(g.principal), form=form or Form())


@bp.post("/account/email")
@require_permission(None)
@throttles.limit_email_changes
@form_view(ChangeEmailForm(), form=change_email_form)
def change_email(body: dict[str, Any]) -> Any:
    """Send the link that gives the user another email address."""
    users.request_email_change(g.principal, **body)
    return pages.redirect_to("dashboard.settings.account_settings", _notice="We sent a link to the new address.")


@bp.post("/account/email/cancel")
@require_permission(None)
@form_view(EmptyForm(), form=account_settings)
def cancel_email_change(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End the change of the email address."""
    users.cancel_email_change(g.principal)
    return pages.redirect_to("dashboard.settings.account_settings", _notice="Your email address stays the same.")


@bp.post("/account/verification")
@require_permission(None)
@throttles.limit_verification_emails
@form_view(EmptyForm(), form=account_settings)
def send_verification_email(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send the verification link again."""
    users.request_email_verification(g.principal)
    return pages.redirect_to(
        "dashboard.settings.account_settings", _notice="We sent a new link. Older links no longer work."
    )


@bp.post('/account/sessions/<id("ses"):session_id>/end')
@require_permission(None)
@form_view(EmptyForm(), form=lambda session_id, form: account_settings(form))  # noqa: ARG005 - the address has it
def revoke_session(session_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End another session of the user."""
    if session_id == g.principal.session_id:
        raise Forbidden("This is your current session. Sign out to end it.")
    sessions.revoke_session(g.principal, session_id)
    return pages.redirect_to("dashboard.settings.account_settings", _notice="Session ended.")


@bp.post("/account/sessions/end-others")
@require_permission(None)
@form_view(EmptyForm(), form=account_settings)
def revoke_other_sessions(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End all other sessions of the user."""
    count = sessions.revoke_other_sessions(g.principal)
    notice = f"{templating.pluralize(count, 'other session')} ended."
    return pages.redirect_to("dashboard.settings.account_settings", _notice=notice)
