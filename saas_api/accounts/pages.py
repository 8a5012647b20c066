"""Public pages of sign-up, sign-in, sign-out, password reset, email verification and invitations."""

import json
import re
from typing import Any

from flask import Blueprint, Response, g, request, session

from saas_api.accounts import (
    billing_email,
    devices,
    invitations,
    organizations,
    passwords,
    sessions,
    sign_in,
    throttles,
    tokens,
    users,
)
from saas_api.accounts.models import User
from saas_api.accounts.schemas import (
    AcceptInvitationIn,
    ForgotPasswordIn,
    LoginCodeForm,
    LoginForm,
    NewOrganizationForm,
    RegisterForm,
    ResetPasswordIn,
    TokenIn,
)
from saas_api.accounts.sessions import InvalidCredentials, SessionStarted
from saas_api.accounts.sign_in import OrganizationChoice
from saas_api.accounts.tokens import TokenAudience
from saas_api.accounts.two_factor import SignInExpired, TwoFactorRequired
from saas_api.core import ids
from saas_api.core.access import public_page, require_permission
from saas_api.core.errors import InvalidOneTimeToken
from saas_api.core.web import error_pages, pages
from saas_api.core.web.forms import Form, form_view

bp = Blueprint("accounts_pages", __name__)
HOME_PATH, CONSOLE_PATH, NEW_ORGANIZATION_PATH, DEFAULT_PLAN = "/dashboard", "/admin", "/organizations/new", "free"
ACCOUNT_PATH = "/dashboard/account"
_SAFE_PATH = re.compile(r"/(?![/\\])[^\s\\]*")


@bp.get("/register")
@public_page
def register_form(form: Form | None = None) -> Any:
    """Show the sign-up form."""
    if g.visitor and form is None:
        return pages.redirect_to(g.visitor.home_path)
    return pages.render_page("auth/register.html", form=form or Form({"plan": request.args.get("plan", "")}))


@bp.post("/register")
@public_page
@throttles.limit_registrations
@form_view(RegisterForm(), form=register_form)
def register(body: dict[str, Any]) -> Any:
    """Create a user with an organization, and continue with the plan chosen on the pricing page."""
    plan, timezone = body.pop("plan"), body.pop("timezone")
    started = sign_in.register(**body, origin=throttles.request_origin(TokenAudience.PAGES), timezone=timezone)
    _keep_session(started, is_kept=True)
    path = f"/dashboard/billing/plans/{plan}" if plan and plan != DEFAULT_PLAN else HOME_PATH
    return pages.redirect_to(path, _notice=f"Welcome, {started.user.display_name}.")


@bp.get("/login")
@public_page
def login_form(form: Form | None = None) -> Any:
    """Show the sign-in form."""
    if g.visitor and form is None:
        return pages.redirect_to(_safe_path(request.args.get("next")))
    last_organization_id = g.get("last_organization_id")
    initial = {
        "next": request.args.get("next", ""),
        "is_kept": True,
        "organization_id": ids.format_id("org", last_organization_id) if last_organization_id else None,
    }
    return pages.render_page("auth/login.html", form=form or Form(initial))


@bp.post("/login")
@public_page
@throttles.limit_sign_in
@form_view(LoginForm(), form=login_form)
def login(body: dict[str, Any]) -> Any:
    """Sign in, or ask for the code of two-factor sign-in."""
    origin = throttles.request_origin(TokenAudience.PAGES)
    try:
        started = sign_in.log_in(body[User.email.key], body["password"], _choice(body), origin)
    except TwoFactorRequired as error:
        hidden = {name: value for name, value in request.form.items() if "password" not in name}
        return login_code_form(Form({**hidden, "challenge": error.challenge}))
    return _enter(started, body)


def login_code_form(form: Form) -> Response:
    """Show the form of the code, after the password."""
    return pages.render_page("auth/login_code.html", form=form)


@bp.post("/login/code")
@public_page
@throttles.limit_codes
@form_view(LoginCodeForm(), form=login_code_form)
def login_with_code(body: dict[str, Any]) -> Any:
    """Sign in with the code of two-factor sign-in."""
    origin = throttles.request_origin(TokenAudience.PAGES)
    try:
        started = sign_in.continue_log_in(body["challenge"], body["code"], _choice(body), origin)
    except (SignInExpired, InvalidCredentials):
        return pages.redirect_to("accounts_pages.login_form", _notice="That took too long. Sign in again.")
    return _enter(started, body)


@bp.get("/logout")
@public_page
def logout_form() -> Response:
    """Show the sign-out button."""
    return pages.render_page("auth/logout.html")


@bp.post("/logout")
@public_page
def logout() -> Any:
    """End the session."""
    if g.visitor:
        sessions.end_session(g.visitor)
    g.tokens = None
    return pages.redirect_to("accounts_pages.login_form", _notice="You're signed out.")


@bp.get("/forgot-password")
@public_page
def forgot_password_form(form: Form | None = None) -> Response:
    """Show the form that requests a reset link."""
    return pages.render_page("auth/forgot_password.html", form=form or Form(request.args))


@bp.post("/forgot-password")
@public_page
@throttles.limit_password_resets
@form_view(ForgotPasswordIn(), form=forgot_password_form)
def request_password_reset(body: dict[str, Any]) -> Response:
    """Mail a reset link; the page is the same for an unknown address."""
    passwords.request_password_reset(**body)
    return pages.render_page("auth/link_sent.html")


@bp.get("/reset-password")
@public_page
def reset_password_form(form: Form | None = None) -> Response:
    """Show the form of a new password."""
    return pages.render_page("auth/reset_password.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/reset-password")
@public_page
@throttles.limit_links
@form_view(ResetPasswordIn(), form=reset_password_form)
def reset_password(body: dict[str, Any]) -> Any:
    """Set the new password and end all sessions of the user."""
    try:
        passwords.reset_password(**body)
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.forgot_password_form")
    return pages.redirect_to("accounts_pages.login_form", _notice="Password changed. Sign in with your new password.")


@bp.get("/verify-email")
@public_page
def verify_email_form(form: Form | None = None) -> Response:
    """Show a button, because mail scanners open links."""
    return pages.render_page("auth/verify_email.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/verify-email")
@public_page
@throttles.limit_links
@form_view(TokenIn(), form=verify_email_form)
def verify_email(body: dict[str, Any]) -> Any:
    """Verify the email address."""
    try:
        user = users.verify_email(body["token"])
    except InvalidOneTimeToken as error:
        if g.visitor and g.visitor.email_verified:
            return pages.redirect_to(HOME_PATH, _notice="Your email address is verified.")
        return _expired_link_page(error, "accounts_pages.login_form")
    endpoint = HOME_PATH if g.visitor else "accounts_pages.login_form"
    return pages.redirect_to(endpoint, _notice=f"{user.email} is verified.")


@bp.get("/confirm-email")
@public_page
def confirm_email_form(form: Form | None = None) -> Response:
    """Show a button, because mail scanners open links."""
    return pages.render_page("auth/confirm_email.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/confirm-email")
@public_page
@throttles.limit_links
@form_view(TokenIn(), form=confirm_email_form)
def confirm_email(body: dict[str, Any]) -> Any:
    """Give the user the new address to which the link was mailed."""
    try:
        user = users.confirm_email_change(body["token"])
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.login_form")
    endpoint = ACCOUNT_PATH if g.visitor else "accounts_pages.login_form"
    return pages.redirect_to(endpoint, _notice=f"Your email address is {user.email} now.")


@bp.get("/verify-billing-email")
@public_page
def verify_billing_email_form(form: Form | None = None) -> Response:
    """Show a button, because mail scanners open links."""
    return pages.render_page(
        "auth/verify_billing_email.html", form=form or Form({"token": request.args.get("token", "")})
    )


@bp.post("/verify-billing-email")
@public_page
@throttles.limit_links
@form_view(TokenIn(), form=verify_billing_email_form)
def verify_billing_email(body: dict[str, Any]) -> Any:
    """Verify the billing address of an organization."""
    try:
        address = billing_email.verify(body["token"])
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.login_form")
    endpoint = HOME_PATH if g.visitor else "accounts_pages.login_form"
    return pages.redirect_to(endpoint, _notice=f"{address} is verified and will receive invoices.")


@bp.get("/accept-invitation")
@public_page
@throttles.limit_links
def invitation_form(form: Form | None = None) -> Response:
    """Show the invitation with the form that accepts or declines it."""
    form = form or Form({"token": request.args.get("token", "")})
    try:
        invitation = sign_in.get_invitation_preview(form.value("token"))
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.login_form")
    return pages.render_page("auth/invitation.html", form=form, invitation=invitation)


@bp.post("/accept-invitation")
@public_page
@throttles.limit_failed_joins
@form_view(AcceptInvitationIn(), form=invitation_form)
def accept_invitation(body: dict[str, Any]) -> Any:
    """Accept or decline the invitation."""
    if request.form.get("answer") == "decline":
        invitations.decline_invitation(body["token"])
        return pages.render_page("auth/declined.html")
    started = sign_in.accept_and_log_in(**body, origin=throttles.request_origin(TokenAudience.PAGES))
    _keep_session(started, is_kept=True)
    notice = f"You joined {started.organization.name}." if started.organization else ""
    return pages.redirect_to(HOME_PATH, _notice=notice)


@bp.get("/organizations/new")
@require_permission(None)
def organization_form(form: Form | None = None) -> Response:
    """Show the form that creates an organization, and the user's organizations."""
    profile = sessions.get_profile(g.principal)
    return pages.render_page("auth/new_organization.html", form=form or Form(), profile=profile)


@bp.post("/organizations/new")
@require_permission(None)
@throttles.limit_new_organizations
@form_view(NewOrganizationForm(), form=organization_form, is_idempotent=True)
def create_organization(body: dict[str, Any]) -> Any:
    """Create an organization, and continue there."""
    organization = organizations.create_own_organization(g.principal, **body)
    g.tokens = sessions.switch_organization(g.principal, organization.id, TokenAudience.PAGES).tokens
    return pages.redirect_to(HOME_PATH, _notice=f"{organization.name} created. You're its owner.")


def _choice(body: dict[str, Any]) -> OrganizationChoice:
    """The organization of the last session, or the first one if the user has left it."""
    return OrganizationChoice(body["organization_id"], is_required=False)


def _enter(started: SessionStarted, body: dict[str, Any]) -> Any:
    """Keep a session, and show the requested page or the form that was submitted after the last session had ended."""
    _keep_session(started, is_kept=body["is_kept"])
    if body["resume_address"]:
        g.csrf = tokens.read_refresh_claims(started.tokens.refresh_token, TokenAudience.PAGES).csrf
        return error_pages.resend_page(
            200,
            _safe_path(body["resume_address"]),
            _parse_fields(body["resume_fields"]),
            organization=started.organization.name if started.organization else "",
            is_signed_in_again=True,
        )
    return pages.redirect_to(_safe_path(body["next"]) if started.organization else _path_without_organization(started))


def _path_without_organization(started: SessionStarted) -> str:
    is_operator = sessions.authenticate_token(started.tokens.token, TokenAudience.PAGES).operator_role is not None
    return CONSOLE_PATH if is_operator else NEW_ORGANIZATION_PATH


def _keep_session(started: SessionStarted, *, is_kept: bool) -> None:
    """Let the gate write the cookies of a session.

    is_kept: they outlive the browser
    """
    session.clear()  # a CSRF token of a visitor is not one of the session that follows
    session["is_kept"] = is_kept
    g.new_device_marks = devices.add_account(g.get("device_marks", ""), started.user.email)
    g.tokens = started.tokens


def _safe_path(path: str | None) -> str:
    """The path, or the home page when it may lead to another site."""
    return path if path and _SAFE_PATH.fullmatch(path) else HOME_PATH


def _parse_fields(text: str | None) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(text or "[]")
        return [(str(name), str(value)) for name, value in pairs]
    except (ValueError, TypeError):
        return []


def _expired_link_page(error: InvalidOneTimeToken, endpoint: str) -> Response:
    return pages.render_page("auth/expired_link.html", status=error.status, endpoint=endpoint)
