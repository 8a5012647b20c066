"""The browser session of a page request: cookies, CSRF protection, impersonation, portal sessions and preferences.

Cookies are read and written nowhere else. A view sets `g.tokens`, `g.impersonation_token`, `g.portal_token` or
`g.changed_preferences`, and `set_cookies` writes them to the response. Flask itself keeps the cookie of its own
session.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Response, current_app, g, request, session
from flask_limiter import RateLimitExceeded
from limits import parse as parse_limit
from sqlalchemy.exc import OperationalError

from saas_api.accounts import passwords, sessions, throttles, tokens
from saas_api.accounts.impersonation import IMPERSONATION_LIFETIME
from saas_api.accounts.sessions import InvalidCredentials
from saas_api.accounts.tokens import InvalidToken, RefreshClaims, RefreshTokenReused, TokenAudience, TokenExpired
from saas_api.core import crypto, formatting, request_context
from saas_api.core.access import Access, Principal
from saas_api.core.errors import BadRequest, NotFound, PayloadTooLarge, Unauthenticated
from saas_api.core.ids import NIL_UUID
from saas_api.core.limits import limiter
from saas_api.core.web import forms, http, portal_mount
from saas_api.core.web.forms import PASSWORD_FIELD, FormExpired
from saas_api.portal import scopes as portal_scopes
from saas_api.portal import sessions as portal_sessions
from saas_api.portal.sessions import PortalSessionEnded

IMPERSONATION_COOKIE, DASHBOARD_PATHS = "impersonation", "/dashboard"
PREFERENCES: Mapping[str, tuple[str, ...]] = {
    "theme": ("system", "light", "dark"),
    "mode": ("live", "test"),
    "shortcuts": ("on", "off"),
}
"""Values of each preference, the default first; the name is that of its cookie."""
MAX_PUBLIC_FORM_BYTES, MAX_FORM_BYTES = http.MAX_BODY_BYTES, http.MAX_LONG_TEXT_BYTES
DEVICE_COOKIE, MAX_DEVICE_COOKIE_LENGTH = "device", 400
_SESSION_SECONDS, _PREFERENCE_SECONDS, _DEVICE_SECONDS = 30 * 86_400, 365 * 86_400, 365 * 86_400
_PASSWORD_LIMIT = parse_limit(f"{throttles.PASSWORD_CHECKS_PER_15_MINUTES} per 15 minutes")


def session_cookie_config(is_secure: bool) -> dict[str, Any]:
    """Settings of Flask's session cookie.

    is_secure: the application is served over https, and the cookie is bound to the host
    """
    return {
        "SESSION_COOKIE_NAME": "__Host-visit" if is_secure else "visit",
        "SESSION_COOKIE_SECURE": is_secure,
        "SESSION_COOKIE_SAMESITE": "Lax",
    }


def load_preferences() -> None:
    """Set `g.preferences`, a value for each name of PREFERENCES, from the cookies and the query's `mode`."""
    cookies = {name: request.cookies.get(_preference_cookie(name)) for name in PREFERENCES}
    cookies["mode"] = request.args.get("mode") or cookies["mode"]
    g.preferences = {
        name: cookies[name] if cookies[name] in values else values[0] for name, values in PREFERENCES.items()
    }


def authenticate_page(view_access: Access) -> None:
    """Authenticate the request of a page or form; sets `g.principal`, or `g.visitor` of a public page.

    raises: Unauthenticated when the page requires a user and none is signed in, FormExpired, ModeSwitched,
        RateLimitExceeded
    """
    g.device_marks = request.cookies.get(DEVICE_COOKIE, "")[:MAX_DEVICE_COOKIE_LENGTH]
    g.presented_impersonation_token = request.cookies.get(IMPERSONATION_COOKIE)
    if view_access.is_public and not view_access.is_login_optional:
        return
    _check_size_and_encoding(MAX_PUBLIC_FORM_BYTES if view_access.is_public else MAX_FORM_BYTES)
    if portal_mount.is_portal_request():
        _authenticate_portal()
        return
    try:
        user = _find_impersonator() or _find_signed_in_user(view_access)
    except OperationalError:  # a public page, such as the status page, is shown without PostgreSQL
        if not view_access.is_login_optional:
            raise
        user = None
    if user is not None and user.session_id is not None:
        # forms on an impersonated page, such as the one that ends it, act in the operator's own session
        own_claims = _find_refresh_claims() if user.is_impersonating else None
        g.csrf = own_claims.csrf if own_claims else tokens.csrf_token_for(user.session_id, user.organization_id)
        g.user_id = user.id
    if user is None:
        g.last_organization_id = _find_last_organization()
        if not view_access.is_login_optional:
            raise Unauthenticated
    if user is not None and user.locale:
        formatting.set_locale(user.locale)
    _check_csrf(user)
    if view_access.is_login_optional or user is None:
        g.visitor = user
    else:
        g.principal = replace(_reauthenticate(user), mode=g.preferences["mode"])
        _use_page_mode()


def _authenticate_portal() -> None:
    """Authenticate a request of a portal session; sets `g.portal`, also of a session that has ended.

    raises: PortalSessionEnded, FormExpired, ModeSwitched
    """
    token = request.cookies.get(portal_mount.cookie_name("session"), "")
    try:
        g.portal = portal_sessions.authenticate(token, is_use="X-Poll" not in request.headers)
    except PortalSessionEnded as ended:
        g.portal = ended.portal
        raise
    finally:
        if g.get("portal"):
            portal_mount.allow_embedding(g.portal.origins)
    g.csrf = tokens.csrf_token_for(g.portal.id, g.portal.organization_id)
    formatting.set_locale(g.portal.locale)
    if request.method not in http.SAFE_METHODS and not forms.is_csrf_valid():
        g.current_organization_name = g.portal.organization_name
        raise FormExpired
    g.principal = Principal(
        kind="portal",
        id=g.portal.id,
        organization_id=g.portal.organization_id,
        scopes=portal_scopes.permissions_of(g.portal.scopes),
        mode=g.preferences["mode"],
        email_verified=True,  # who made the link answers for the customer
        is_recently_authenticated=True,
        locale=g.portal.locale,
    )
    _use_page_mode()


def _use_page_mode() -> None:
    """Refuse a form of a page in another mode, and stay in the mode of a page that was opened with one."""
    forms.require_page_mode(g.principal.mode)
    if request.args.get("mode") == g.principal.mode:
        _keep_mode()


def _keep_mode() -> None:
    """Stay in the mode of `g.principal` after a page of the dashboard was opened.

    A fragment changes nothing: it may be a poll of a page that was left open in another tab.
    """
    is_page = request.method in http.SAFE_METHODS and "HX-Request" not in request.headers
    if (
        is_page
        and request.path.startswith(DASHBOARD_PATHS)
        and g.principal.mode != request.cookies.get(_preference_cookie("mode"))
    ):
        g.changed_preferences = {"mode": g.principal.mode}


def _check_size_and_encoding(max_bytes: int) -> None:
    """Reject requests that no form of the application sends, before the body is read.

    raises: PayloadTooLarge, EncodedBody, NotFound, BadRequest
    """
    http.require_plain_body(request)
    request.max_content_length = request.max_form_memory_size = max_bytes
    if (request.content_length or 0) > max_bytes:
        raise PayloadTooLarge
    if "Transfer-Encoding" in request.headers:  # the length is unknown, and a longer body would be cut silently
        raise BadRequest
    if "\0" in request.path:
        raise NotFound
    values = request.args.values() if request.method in http.SAFE_METHODS else request.values.values()
    if any("\0" in value for value in values):
        raise BadRequest


def _find_last_organization() -> UUID | None:
    """The organization of the session that has ended; the sign-in page continues there."""
    claims = _find_refresh_claims()
    return claims.organization_id if claims and claims.organization_id != NIL_UUID else None


def _check_csrf(user: Principal | None) -> None:
    """Check the CSRF token of a form.

    raises: FormExpired, with the organization in which the form would act now in `g.current_organization_name`
    """
    if request.method in http.SAFE_METHODS or forms.is_csrf_valid():
        return
    if user is not None and user.has_organization:
        organization = sessions.get_profile(user).organization
        g.current_organization_name = organization.name if organization else ""
    raise FormExpired


def _find_impersonator() -> Principal | None:
    """The operator who views an organization, while signed in with their own session too."""
    token, own_claims = g.presented_impersonation_token, _find_refresh_claims()
    if not token or own_claims is None or not request.path.startswith(DASHBOARD_PATHS):
        return None
    try:
        user = sessions.authenticate_token(token, TokenAudience.PAGES)
    except (InvalidToken, TokenExpired):
        return None
    return user if user.is_impersonating and user.id == own_claims.user_id else None


def _find_refresh_claims() -> RefreshClaims | None:
    try:
        return tokens.read_refresh_claims(request.cookies.get(_cookie_name("REFRESH"), ""), TokenAudience.PAGES)
    except (InvalidToken, TokenExpired):
        return None


def _find_signed_in_user(view_access: Access) -> Principal | None:
    """The user of the access token; an expired token is refreshed, except for a poll, which must not extend a session.

    raises: FormExpired for a form of another session, before the refresh token is used
    """
    try:
        return sessions.authenticate_token(request.cookies.get(_cookie_name("ACCESS"), ""), TokenAudience.PAGES)
    except (InvalidToken, TokenExpired):
        refresh_token = request.cookies.get(_cookie_name("REFRESH"))
    if not refresh_token or "X-Poll" in request.headers:
        return None
    try:
        if request.method not in http.SAFE_METHODS:
            g.csrf = tokens.read_refresh_claims(refresh_token, TokenAudience.PAGES).csrf
            if not forms.is_csrf_valid():
                g.pop("csrf")
                if view_access.is_login_optional:
                    return None
                raise FormExpired
        g.tokens = sessions.refresh_session(refresh_token, TokenAudience.PAGES)
        return sessions.authenticate_token(g.tokens.token, TokenAudience.PAGES)
    except (InvalidToken, TokenExpired, RefreshTokenReused):
        g.pop("csrf", None)
        return None


def _reauthenticate(user: Principal) -> Principal:
    """The user, recently authenticated when the form contains the right password.

    raises: RateLimitExceeded
    """
    password = request.form.get(PASSWORD_FIELD) if request.method not in http.SAFE_METHODS else None
    if not password or user.is_recently_authenticated or user.is_impersonating:
        return user
    user_key = crypto.hmac_hex("throttle", str(user.id))
    # counted before the password is compared, so that concurrent attempts are counted too
    if not limiter.limiter.limiter.hit(_PASSWORD_LIMIT, user_key, "password"):
        window_ms = _PASSWORD_LIMIT.get_expiry() * 1000
        raise RateLimitExceeded(limiter.request_limit(_PASSWORD_LIMIT.amount, window_ms, "password"))
    try:
        g.access_token = passwords.reauthenticate(user, password, TokenAudience.PAGES).token
    except InvalidCredentials:
        g.is_password_wrong = True
        return user
    return replace(user, is_recently_authenticated=True)


def set_cookies(response: Response) -> Response:
    """Write the cookies that the view or the authentication of this request has changed."""
    values = request_context.current_values()
    if "tokens" in values:
        if values.tokens is None:
            for name in (_cookie_name("ACCESS"), _cookie_name("REFRESH"), IMPERSONATION_COOKIE):
                _delete(response, name)
            response.headers["Clear-Site-Data"] = '"cache"'
        else:
            _set(response, _cookie_name("ACCESS"), values.tokens.token, _session_max_age())
            _set(response, _cookie_name("REFRESH"), values.tokens.refresh_token, _session_max_age())
    if "access_token" in values:
        _set(response, _cookie_name("ACCESS"), values.access_token, _session_max_age())
    if "impersonation_token" in values:
        _set_or_delete(response, IMPERSONATION_COOKIE, values.impersonation_token, IMPERSONATION_LIFETIME)
    if "portal_token" in values:
        name = portal_mount.cookie_name("session")
        _set_or_delete(response, name, values.portal_token, portal_sessions.MAX_LIFETIME)
    if "new_device_marks" in values:
        _set(response, DEVICE_COOKIE, values.new_device_marks, _DEVICE_SECONDS)
    for name, value in values.get("changed_preferences", {}).items():
        _set(response, _preference_cookie(name), value, _PREFERENCE_SECONDS)
    return response


def _set_or_delete(response: Response, name: str, value: str | None, lifetime: timedelta) -> None:
    if value is None:
        _delete(response, name)
    else:
        _set(response, name, value, int(lifetime.total_seconds()))


def _set(response: Response, name: str, value: str, max_age: int | None) -> None:
    response.set_cookie(name, value, max_age=max_age, httponly=True, secure=_is_secure(), **_cookie_scope())


def _delete(response: Response, name: str) -> None:
    response.delete_cookie(name, httponly=True, secure=_is_secure(), **_cookie_scope())


def _cookie_scope() -> dict[str, Any]:
    """Where the cookies of this response are sent: those of the portal to it alone, also in a frame that is allowed."""
    if not portal_mount.is_portal_request():
        return {"samesite": "Lax"}
    if portal_mount.has_embeddable_cookies():
        return {"path": portal_mount.ROOT, "samesite": "None", "partitioned": True}
    return {"path": portal_mount.ROOT, "samesite": "Lax"}


def _preference_cookie(name: str) -> str:
    return portal_mount.cookie_name(name) if portal_mount.is_portal_request() else name


def _session_max_age() -> int | None:
    return _SESSION_SECONDS if session.get("is_kept", True) else None


def _cookie_name(kind: str) -> str:
    return str(current_app.config[f"JWT_{kind}_COOKIE_NAME"])


def _is_secure() -> bool:
    return bool(current_app.config["JWT_COOKIE_SECURE"])
