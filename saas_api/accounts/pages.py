"""Sign-up, sign-in, password reset, invitation and logout pages."""

import json
import re
from typing import Any

from flask import Blueprint, Response, g, request, session

from saas_api.accounts import invitations, passwords, sessions, sign_in, throttles, tokens, users
from saas_api.accounts.schemas import (
    AcceptInvitationForm,
    ForgotPasswordIn,
    LoginForm,
    RegisterForm,
    ResetPasswordIn,
    TokenIn,
)
from saas_api.accounts.sessions import SessionStarted
from saas_api.core import ids
from saas_api.core.access import public_page
from saas_api.core.errors import InvalidOneTimeToken, ValidationFailed
from saas_api.core.limits import limiter
from saas_api.core.web import error_pages, pages
from saas_api.core.web.forms import Form, form_view

bp = Blueprint("accounts_pages", __name__)
HOME_ENDPOINT, DEFAULT_PLAN = "/dashboard", "free"
_SAFE_PATH = re.compile(r"/(?![/\\])[^\s\\]*")


@bp.get("/register")
@public_page
def register_form(form: Form | None = None) -> Any:
    """Show the form to sign up."""
    if g.visitor and form is None:
        return pages.redirect_to(HOME_ENDPOINT)
    return pages.render_page("auth/register.html", form=form or Form({"plan": request.args.get("plan", "")}))


@bp.post("/register")
@public_page
@throttles.limit_per_address(10, "hour", "register")
@form_view(RegisterForm(), form=register_form)
def register(body: dict[str, Any]) -> Any:
    """Sign up: a person and their organization."""
    plan, zone = body.pop("plan"), body.pop("timezone")
    signed = sign_in.register(**body, origin=throttles.request_origin(), timezone=zone)
    _redirect_signed_in(signed, is_kept=True)
    told = f"Welcome, {signed.user.full_name or signed.user.email}."
    return pages.redirect_to(
        f"/dashboard/billing/plans/{plan}" if plan and plan != DEFAULT_PLAN else HOME_ENDPOINT, _notice=told
    )


@bp.get("/login")
@public_page
def login_form(form: Form | None = None) -> Any:
    """Show the form to sign in."""
    if g.visitor and form is None:
        return pages.redirect_to(_safe_next_path(request.args.get("next")))
    was_in = ids.format_id("org", g.was_in) if g.get("was_in") else None
    empty = Form({"next": request.args.get("next", ""), "is_kept": True, "organization_id": was_in})
    return pages.render_page("auth/login.html", form=form or empty)


@bp.post("/login")
@public_page
@throttles.limit_sign_in
@form_view(LoginForm(), form=login_form)
def login(body: dict[str, Any]) -> Any:
    """Sign in, and go on where one came from."""
    signed = _start_session(body)
    _redirect_signed_in(signed, is_kept=body["is_kept"])
    if body["resume_address"]:
        g.csrf = tokens.read_refresh_claims(signed.tokens.refresh_token).csrf
        return error_pages.resend_page(
            200,
            _safe_next_path(body["resume_address"]),
            _fields(body["resume_fields"]),
            organization=signed.organization.name if signed.organization else "",
            is_signed_in_again=True,
        )
    return pages.redirect_to(_safe_next_path(body["next"]) if signed.organization else "/admin")


@bp.get("/logout")
@public_page
def logout_form() -> Response:
    """Show the button to sign out."""
    return pages.render_page("auth/logout.html")


@bp.post("/logout")
@public_page
def logout() -> Any:
    """Sign out: the session's tokens are dead at once."""
    if g.visitor:
        sessions.end_session(g.visitor)
    g.tokens = None
    return pages.redirect_to("accounts_pages.login_form", _notice="You are signed out.")


@bp.get("/forgot-password")
@public_page
def forgot_password_form(form: Form | None = None) -> Response:
    """Show the form to ask for a link."""
    return pages.render_page("auth/forgot_password.html", form=form or Form({"email": request.args.get("email", "")}))


@bp.post("/forgot-password")
@public_page
@limiter.limiter.shared_limit("3 per hour", scope="reset", key_func=throttles.account_key)
@throttles.limit_per_address(20, "hour", "reset")
@form_view(ForgotPasswordIn(), form=forgot_password_form)
def request_password_reset(body: dict[str, Any]) -> Response:
    """Mail a link, or do as if."""
    passwords.request_password_reset(body["email"])
    return pages.render_page("auth/link_sent.html")


@bp.get("/reset-password")
@public_page
def reset_password_form(form: Form | None = None) -> Response:
    """Show the form for a new password."""
    return pages.render_page("auth/reset_password.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/reset-password")
@public_page
@throttles.limit_per_address(20, "5 minutes", "links")
@form_view(ResetPasswordIn(), form=reset_password_form)
def reset_password(body: dict[str, Any]) -> Any:
    """Set the new password: every session ends."""
    try:
        passwords.reset_password(**body)
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.forgot_password_form")
    return pages.redirect_to("accounts_pages.login_form", _notice="Your password is changed. Sign in with it.")


@bp.get("/verify-email")
@public_page
def verify_email_form(form: Form | None = None) -> Response:
    """Show the button that verifies: mail scanners open links."""
    return pages.render_page("auth/verify_email.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/verify-email")
@public_page
@throttles.limit_per_address(20, "5 minutes", "links")
@form_view(TokenIn(), form=verify_email_form)
def verify_email(body: dict[str, Any]) -> Any:
    """Verify the address."""
    try:
        user = users.verify_email(body["token"])
    except InvalidOneTimeToken as error:
        if g.visitor and g.visitor.email_verified:
            return pages.redirect_to(HOME_ENDPOINT, _notice="Your e-mail address is verified.")
        return _expired_link_page(error, "accounts_pages.login_form")
    return pages.redirect_to(
        HOME_ENDPOINT if g.visitor else "accounts_pages.login_form", _notice=f"{user.email} is verified."
    )


@bp.get("/accept-invitation")
@public_page
@throttles.limit_per_address(20, "5 minutes", "links")
def invitation_form(form: Form | None = None) -> Response:
    """Show who invites, to what, and the form to join."""
    form = form or Form({"token": request.args.get("token", "")})
    try:
        invited = sign_in.get_invitation_preview(form.value("token"))
    except InvalidOneTimeToken as error:
        return _expired_link_page(error, "accounts_pages.login_form")
    return pages.render_page("auth/invitation.html", form=form, invited=invited)


@bp.post("/accept-invitation")
@public_page
@limiter.limiter.shared_limit(
    "10 per 15 minutes", scope="join", key_func=throttles.token_key, deduct_when=throttles.is_unauthorized
)
@throttles.limit_per_address(20, "5 minutes", "links")
@form_view(AcceptInvitationForm(), form=invitation_form)
def accept_invitation(body: dict[str, Any]) -> Any:
    """Join, or decline."""
    if request.form.get("answer") == "decline":
        invitations.decline_invitation(body["token"])
        return pages.render_page("auth/declined.html")
    signed = sign_in.accept_and_log_in(**body, origin=throttles.request_origin())
    _redirect_signed_in(signed, is_kept=True)
    return pages.redirect_to(
        HOME_ENDPOINT, _notice=f"You have joined {signed.organization.name}." if signed.organization else ""
    )


def _start_session(body: dict[str, Any]) -> SessionStarted:
    """Sign in where the last session was, or where they joined first if that is theirs no more."""
    who = body["email"], body["password"]
    try:
        return sign_in.log_in(*who, body["organization_id"], throttles.request_origin(), is_office_enough=True)
    except ValidationFailed:
        return sign_in.log_in(*who, None, throttles.request_origin(), is_office_enough=True)


def _redirect_signed_in(signed: SessionStarted, *, is_kept: bool) -> None:
    session["is_kept"] = is_kept
    g.tokens = signed.tokens


def _safe_next_path(wanted: str | None) -> str:
    """A path of ours, or home: nobody is led elsewhere by a link."""
    return wanted if wanted and _SAFE_PATH.fullmatch(wanted) else HOME_ENDPOINT


def _fields(text: str | None) -> list[tuple[str, str]]:
    try:
        found = json.loads(text or "[]")
        return [(str(name), str(value)) for name, value in found]
    except (ValueError, TypeError):
        return []


def _expired_link_page(error: InvalidOneTimeToken, endpoint: str) -> Response:
    return pages.render_page("auth/expired_link.html", status=error.status, endpoint=endpoint)
