"""Pages to sign up and in, to come back with a mailed link, and to leave."""

import json
import re
from typing import Any

from flask import Blueprint, Response, g, request, session

from saas_api.auth import service as auth
from saas_api.auth.routes import throttles
from saas_api.auth.routes.throttles import is_refused, per_address
from saas_api.auth.schemas import AddressIn, JoinForm, LinkIn, ResetIn, SignInForm, SignUpForm
from saas_api.core.access import visitors
from saas_api.core.errors import Invalid, InvalidOneTimeToken
from saas_api.core.ids import wire_id
from saas_api.core.limits import limiter
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.errors import resend
from saas_api.organizations import service as organizations

bp = Blueprint("pages", __name__)
HOME, FIRST_PLAN = "/dashboard", "free"
_OWN_PATH = re.compile(r"/(?![/\\])[^\s\\]*")


@bp.get("/register")
@visitors
def register(form: Form | None = None) -> Any:
    """Show the form to sign up."""
    if g.visitor and form is None:
        return see_other(HOME)
    return page("auth/register.html", form=form or Form({"plan": request.args.get("plan", "")}))


@bp.post("/register")
@visitors
@per_address(10, "hour", "register")
@submits(SignUpForm(), again=register)
def sign_up(body: dict[str, Any]) -> Any:
    """Sign up: a person and their organization."""
    plan, zone = body.pop("plan"), body.pop("timezone")
    signed = auth.register(**body, origin=throttles.origin(), timezone=zone)
    _begin(signed, is_kept=True)
    told = f"Welcome, {signed.user.full_name or signed.user.email}."
    return see_other(f"/dashboard/billing/plans/{plan}" if plan and plan != FIRST_PLAN else HOME, _notice=told)


@bp.get("/login")
@visitors
def login(form: Form | None = None) -> Any:
    """Show the form to sign in."""
    if g.visitor and form is None:
        return see_other(_own_path(request.args.get("next")))
    was_in = wire_id("org", g.was_in) if g.get("was_in") else None
    empty = Form({"next": request.args.get("next", ""), "is_kept": True, "organization_id": was_in})
    return page("auth/login.html", form=form or empty)


@bp.post("/login")
@visitors
@throttles.sign_in
@submits(SignInForm(), again=login)
def sign_in(body: dict[str, Any]) -> Any:
    """Sign in, and go on where one came from."""
    signed = _enter(body)
    _begin(signed, is_kept=body["is_kept"])
    if body["resume_address"]:
        g.csrf = auth.visit_of(signed.tokens.refresh_token).csrf
        return resend(
            200,
            _own_path(body["resume_address"]),
            _fields(body["resume_fields"]),
            organization=signed.organization.name if signed.organization else "",
            is_signed_in_again=True,
        )
    return see_other(_own_path(body["next"]) if signed.organization else "/admin")


@bp.get("/logout")
@visitors
def leave() -> Response:
    """Show the button to sign out."""
    return page("auth/logout.html")


@bp.post("/logout")
@visitors
def logout() -> Any:
    """Sign out: the session's tokens are dead at once."""
    if g.visitor:
        auth.sign_out(g.visitor)
    g.tokens = None
    return see_other("auth.pages.login", _notice="You are signed out.")


@bp.get("/forgot-password")
@visitors
def forgot_password(form: Form | None = None) -> Response:
    """Show the form to ask for a link."""
    return page("auth/forgot_password.html", form=form or Form({"email": request.args.get("email", "")}))


@bp.post("/forgot-password")
@visitors
@limiter.shared_limit("3 per hour", scope="reset", key_func=throttles.account)
@per_address(20, "hour", "reset")
@submits(AddressIn(), again=forgot_password)
def request_reset(body: dict[str, Any]) -> Response:
    """Mail a link, or do as if."""
    auth.request_password_reset(body["email"])
    return page("auth/link_sent.html")


@bp.get("/reset-password")
@visitors
def reset_password(form: Form | None = None) -> Response:
    """Show the form for a new password."""
    return page("auth/reset_password.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/reset-password")
@visitors
@per_address(20, "5 minutes", "links")
@submits(ResetIn(), again=reset_password)
def set_password(body: dict[str, Any]) -> Any:
    """Set the new password: every session ends."""
    try:
        auth.reset_password(**body)
    except InvalidOneTimeToken as error:
        return _dead_link(error, "auth.pages.forgot_password")
    return see_other("auth.pages.login", _notice="Your password is changed. Sign in with it.")


@bp.get("/verify-email")
@visitors
def verify_email(form: Form | None = None) -> Response:
    """Show the button that verifies: mail scanners open links."""
    return page("auth/verify_email.html", form=form or Form({"token": request.args.get("token", "")}))


@bp.post("/verify-email")
@visitors
@per_address(20, "5 minutes", "links")
@submits(LinkIn(), again=verify_email)
def verify(body: dict[str, Any]) -> Any:
    """Verify the address."""
    try:
        user = auth.verify_email(body["token"])
    except InvalidOneTimeToken as error:
        if g.visitor and g.visitor.email_verified:
            return see_other(HOME, _notice="Your e-mail address is verified.")
        return _dead_link(error, "auth.pages.login")
    return see_other(HOME if g.visitor else "auth.pages.login", _notice=f"{user.email} is verified.")


@bp.get("/accept-invitation")
@visitors
@per_address(20, "5 minutes", "links")
def invitation(form: Form | None = None) -> Response:
    """Show who invites, to what, and the form to join."""
    form = form or Form({"token": request.args.get("token", "")})
    try:
        invited = auth.look_at_invitation(form.value("token"))
    except InvalidOneTimeToken as error:
        return _dead_link(error, "auth.pages.login")
    return page("auth/invitation.html", form=form, invited=invited)


@bp.post("/accept-invitation")
@visitors
@limiter.shared_limit("10 per 15 minutes", scope="join", key_func=throttles.link, deduct_when=is_refused)
@per_address(20, "5 minutes", "links")
@submits(JoinForm(), again=invitation)
def join(body: dict[str, Any]) -> Any:
    """Join, or decline."""
    if request.form.get("answer") == "decline":
        organizations.decline(body["token"])
        return page("auth/declined.html")
    signed = auth.join(**body, origin=throttles.origin())
    _begin(signed, is_kept=True)
    return see_other(HOME, _notice=f"You have joined {signed.organization.name}." if signed.organization else "")


def _enter(body: dict[str, Any]) -> auth.SignedIn:
    """Sign in where the last session was, or where they joined first if that is theirs no more."""
    who = body["email"], body["password"]
    try:
        return auth.sign_in(*who, body["organization_id"], throttles.origin(), is_office_enough=True)
    except Invalid:
        return auth.sign_in(*who, None, throttles.origin(), is_office_enough=True)


def _begin(signed: auth.SignedIn, *, is_kept: bool) -> None:
    session["is_kept"] = is_kept
    g.tokens = signed.tokens


def _own_path(wanted: str | None) -> str:
    """A path of ours, or home: nobody is led elsewhere by a link."""
    return wanted if wanted and _OWN_PATH.fullmatch(wanted) else HOME


def _fields(text: str | None) -> list[tuple[str, str]]:
    try:
        found = json.loads(text or "[]")
        return [(str(name), str(value)) for name, value in found]
    except (ValueError, TypeError):
        return []


def _dead_link(error: InvalidOneTimeToken, endpoint: str) -> Response:
    return page("auth/dead_link.html", status=error.status, endpoint=endpoint)
