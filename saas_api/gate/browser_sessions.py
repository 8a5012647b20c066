"""Cookies, CSRF, impersonation and mode of a page request."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Response, current_app, g, request, session
from flask_limiter import RateLimitExceeded
from limits import parse as parse_limit
from sqlalchemy.exc import OperationalError

from saas_api.accounts import passwords, sessions, tokens
from saas_api.accounts.sessions import InvalidCredentials
from saas_api.accounts.tokens import InvalidToken, RefreshClaims, RefreshTokenReused, TokenExpired
from saas_api.core import crypto
from saas_api.core.access import NIL_UUID, Access, Principal
from saas_api.core.errors import BadRequest, NotFound, PayloadTooLarge, Unauthenticated
from saas_api.core.limits import limiter
from saas_api.core.web import forms
from saas_api.core.web.forms import PASSWORD_FIELD, FormExpired

IMPERSONATION_COOKIE, IMPERSONATED_PATHS = "looking", "/dashboard"
MODE_COOKIE, MODES = "mode", ("live", "test")
_READING = ("GET", "HEAD")
_COOKIE_SECONDS = 30 * 86_400
MAX_FORM_BYTES = 65_536
_PASSWORD_VIEWS = parse_limit("10 per 15 minutes")


def session_cookie_config(is_secure: bool) -> dict[str, Any]:
    """Flask's settings of the cookie that remembers a visit.

    is_secure: over https cookies are bound to the host alone
    """
    return {
        "SESSION_COOKIE_NAME": "__Host-visit" if is_secure else "visit",
        "SESSION_COOKIE_SECURE": is_secure,
        "SESSION_COOKIE_SAMESITE": "Lax",
    }


def authenticate_page(asked: Access) -> None:
    """Find out who opens a page or sends a form.

    raises: Unauthenticated where nobody is signed in and somebody must be, FormExpired, RateLimitExceeded
    """
    if asked.is_public and not asked.is_login_optional:
        return
    _check_size_and_csrf()
    try:
        person = _impersonation() or _signed_in(asked)
    except OperationalError:  # without PostgreSQL nobody is known, and the status is shown all the same
        if not asked.is_login_optional:
            raise
        person = None
    if person is not None and person.session_id is not None:
        own = _refresh_claims() if person.is_impersonating else None  # what leads away from there is the operator's own
        g.csrf = own.csrf if own else tokens.csrf_token_for(person.session_id.hex, person.organization_id.hex)
        g.user_id = person.id
    if person is None:
        last = _refresh_claims()
        g.was_in = UUID(last.organization) if last and UUID(last.organization) != NIL_UUID else None
        if not asked.is_login_optional:
            raise Unauthenticated
    if request.method not in _READING and not forms.is_csrf_valid(accepts_visitor_token=asked.is_login_optional):
        if person is not None and person.organization_id != NIL_UUID:
            g.acts_in = sessions.get_profile(person).organization.name
        raise FormExpired
    if asked.is_login_optional or person is None:
        g.visitor = person
    else:
        g.principal = replace(_reauthenticated(person), mode=_mode())


def _check_size_and_csrf() -> None:
    """Refuse what no form of ours sends, before anything of it is read.

    raises: TooLarge, NotFound, Malformed
    """
    request.max_content_length = MAX_FORM_BYTES
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise PayloadTooLarge
    if "Transfer-Encoding" in request.headers:  # its length is not known, and past the limit it is cut silently
        raise BadRequest
    if "\0" in request.path:
        raise NotFound
    sent = request.args.values() if request.method in _READING else request.values.values()
    if any("\0" in value for value in sent):
        raise BadRequest


def _impersonation() -> Principal | None:
    """The operator who looks at an organization, while they are signed in themselves."""
    token, own = request.cookies.get(IMPERSONATION_COOKIE), _refresh_claims()
    if not token or own is None or not request.path.startswith(IMPERSONATED_PATHS):
        return None
    try:
        person = sessions.authenticate_token(token)
    except (InvalidToken, TokenExpired):
        return None
    return person if person.is_impersonating and person.id.hex == own.user else None


def _refresh_claims() -> RefreshClaims | None:
    try:
        return tokens.read_refresh_claims(request.cookies.get(_cookie("REFRESH"), ""))
    except (InvalidToken, TokenExpired):
        return None


def _signed_in(asked: Access) -> Principal | None:
    """Who holds the cookies; an access token whose time is over is renewed, unless only a poll asks."""
    try:
        return sessions.authenticate_token(request.cookies.get(_cookie("ACCESS"), ""))
    except (InvalidToken, TokenExpired):
        renewal = request.cookies.get(_cookie("REFRESH"))
    if not renewal or "X-Poll" in request.headers:
        return None
    try:
        if request.method not in _READING:
            g.csrf = tokens.read_refresh_claims(renewal).csrf
            if not forms.is_csrf_valid():
                g.pop("csrf")
                if asked.is_login_optional:
                    return None
                raise FormExpired
        g.tokens = sessions.refresh_session(renewal)
        return sessions.authenticate_token(g.tokens.token)
    except (InvalidToken, TokenExpired, RefreshTokenReused):
        g.pop("csrf", None)
        return None


def _reauthenticated(person: Principal) -> Principal:
    """The person, fresh when the form brings their password."""
    offered = request.form.get(PASSWORD_FIELD) if request.method not in _READING else None
    if not offered or person.is_recently_authenticated or person.is_impersonating:
        return person
    who = crypto.hmac_hex("throttle", str(person.id))
    if not limiter.limiter.limiter.hit(
        _PASSWORD_VIEWS, who, "password"
    ):  # before it is compared: many at once are counted too
        raise RateLimitExceeded(limiter.gate_limit(10, 900_000, "password"))
    try:
        g.access_token = passwords.reauthenticate(person, offered)
    except InvalidCredentials:
        g.is_password_wrong = True
        return person
    return replace(person, is_recently_authenticated=True)


def _mode() -> str:
    wanted = request.args.get(MODE_COOKIE) or request.cookies.get(MODE_COOKIE, "")
    return wanted if wanted in MODES else MODES[0]


def set_session_cookies(response: Response) -> Response:
    """Give the browser the tokens of a session that began, went on or ended in this request."""
    if "tokens" in g:
        kept = _COOKIE_SECONDS if session.get("is_kept", True) else None
        if g.tokens is None:
            for kind in ("ACCESS", "REFRESH"):
                response.delete_cookie(_cookie(kind), httponly=True, samesite="Lax", secure=_is_secure())
            response.delete_cookie(IMPERSONATION_COOKIE, httponly=True, samesite="Lax", secure=_is_secure())
            response.headers["Clear-Site-Data"] = '"cache"'
        else:
            _set(response, _cookie("ACCESS"), g.tokens.token, kept)
            _set(response, _cookie("REFRESH"), g.tokens.refresh_token, kept)
    if "access_token" in g:
        kept = _COOKIE_SECONDS if session.get("is_kept", True) else None
        _set(response, _cookie("ACCESS"), g.access_token, kept)
    return response


def _set(response: Response, name: str, value: str, max_age: int | None) -> None:
    response.set_cookie(name, value, max_age=max_age, httponly=True, samesite="Lax", secure=_is_secure())


def _cookie(kind: str) -> str:
    return str(current_app.config[f"JWT_{kind}_COOKIE_NAME"])


def _is_secure() -> bool:
    return bool(current_app.config["JWT_COOKIE_SECURE"])
