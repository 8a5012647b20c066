"""Callers of pages: a person by cookies, renewed within the request, whose forms must come from our own pages.

Cookies are read and written nowhere else. A view that begins a session puts its tokens into `g.tokens`.
"""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Response, current_app, g, request, session
from flask_limiter import RateLimitExceeded
from limits import parse as parse_limit
from sqlalchemy.exc import OperationalError

from saas_api.auth import service as auth
from saas_api.core import crypto
from saas_api.core.access import NO_ORGANIZATION, Access, Principal
from saas_api.core.errors import Malformed, NotFound, TooLarge, Unauthenticated
from saas_api.core.limits import gate_limit, limiter
from saas_api.core.render import FormExpired, is_own_form
from saas_api.core.render.forms import PASSWORD

LOOKING, LOOKED_AT = "looking", "/dashboard"
MODE, MODES = "mode", ("live", "test")
_READING = ("GET", "HEAD")
_KEPT_SECONDS = 30 * 86_400
FORM_LIMIT_BYTES = 65_536
_PASSWORDS = parse_limit("10 per 15 minutes")


def configure(is_secure: bool) -> dict[str, Any]:
    """Flask's settings of the cookie that remembers a visit.

    is_secure: over https cookies are bound to the host alone
    """
    return {
        "SESSION_COOKIE_NAME": "__Host-visit" if is_secure else "visit",
        "SESSION_COOKIE_SECURE": is_secure,
        "SESSION_COOKIE_SAMESITE": "Lax",
    }


def recognise(asked: Access) -> None:
    """Find out who opens a page or sends a form.

    raises: Unauthenticated where nobody is signed in and somebody must be, FormExpired, RateLimitExceeded
    """
    if asked.is_public and not asked.is_visited:
        return
    _check_size_and_signs()
    try:
        person = _looking() or _signed_in(asked)
    except OperationalError:  # without PostgreSQL nobody is known, and the status is shown all the same
        if not asked.is_visited:
            raise
        person = None
    if person is not None and person.session_id is not None:
        own = _visit() if person.is_looking else None  # what leads away from there is the operator's own
        g.csrf = own.csrf if own else auth.csrf_of(person.session_id.hex, person.organization_id.hex)
        g.user_id = person.id
    if person is None:
        last = _visit()
        g.was_in = UUID(last.organization) if last and UUID(last.organization) != NO_ORGANIZATION else None
        if not asked.is_visited:
            raise Unauthenticated
    if request.method not in _READING and not is_own_form(is_visit=asked.is_visited):
        if person is not None and person.organization_id != NO_ORGANIZATION:
            g.acts_in = auth.profile(person).organization.name
        raise FormExpired
    if asked.is_visited or person is None:
        g.visitor = person
    else:
        g.principal = replace(_proven(person), mode=_mode())


def _check_size_and_signs() -> None:
    """Refuse what no form of ours sends, before anything of it is read.

    raises: TooLarge, NotFound, Malformed
    """
    request.max_content_length = FORM_LIMIT_BYTES
    if (request.content_length or 0) > FORM_LIMIT_BYTES:
        raise TooLarge
    if "Transfer-Encoding" in request.headers:  # its length is not known, and past the limit it is cut silently
        raise Malformed
    if "\0" in request.path:
        raise NotFound
    sent = request.args.values() if request.method in _READING else request.values.values()
    if any("\0" in value for value in sent):
        raise Malformed


def _looking() -> Principal | None:
    """The operator who looks at an organization, while they are signed in themselves."""
    token, own = request.cookies.get(LOOKING), _visit()
    if not token or own is None or not request.path.startswith(LOOKED_AT):
        return None
    try:
        person = auth.principal_of(token)
    except (auth.InvalidToken, auth.TokenExpired):
        return None
    return person if person.is_looking and person.id.hex == own.user else None


def _visit() -> auth.Visit | None:
    try:
        return auth.visit_of(request.cookies.get(_cookie("REFRESH"), ""))
    except (auth.InvalidToken, auth.TokenExpired):
        return None


def _signed_in(asked: Access) -> Principal | None:
    """Who holds the cookies; an access token whose time is over is renewed, unless only a poll asks."""
    try:
        return auth.principal_of(request.cookies.get(_cookie("ACCESS"), ""))
    except (auth.InvalidToken, auth.TokenExpired):
        renewal = request.cookies.get(_cookie("REFRESH"))
    if not renewal or "X-Poll" in request.headers:
        return None
    try:
        if request.method not in _READING:
            g.csrf = auth.visit_of(renewal).csrf
            if not is_own_form():
                g.pop("csrf")
                if asked.is_visited:
                    return None
                raise FormExpired
        g.tokens = auth.refresh(renewal)
        return auth.principal_of(g.tokens.token)
    except (auth.InvalidToken, auth.TokenExpired, auth.TokenReused):
        g.pop("csrf", None)
        return None


def _proven(person: Principal) -> Principal:
    """The person, fresh when the form brings their password."""
    offered = request.form.get(PASSWORD) if request.method not in _READING else None
    if not offered or person.is_fresh or person.is_looking:
        return person
    who = crypto.mac("throttle", str(person.id))
    if not limiter.limiter.hit(_PASSWORDS, who, "password"):  # before it is compared: many at once are counted too
        raise RateLimitExceeded(gate_limit(10, 900_000, "password"))
    try:
        g.access_token = auth.prove_again(person, offered)
    except auth.InvalidCredentials:
        g.is_password_wrong = True
        return person
    return replace(person, is_fresh=True)


def _mode() -> str:
    wanted = request.args.get(MODE) or request.cookies.get(MODE, "")
    return wanted if wanted in MODES else MODES[0]


def hand_out(response: Response) -> Response:
    """Give the browser the tokens of a session that began, went on or ended in this request."""
    if "tokens" in g:
        kept = _KEPT_SECONDS if session.get("is_kept", True) else None
        if g.tokens is None:
            for kind in ("ACCESS", "REFRESH"):
                response.delete_cookie(_cookie(kind), httponly=True, samesite="Lax", secure=_is_secure())
            response.delete_cookie(LOOKING, httponly=True, samesite="Lax", secure=_is_secure())
            response.headers["Clear-Site-Data"] = '"cache"'
        else:
            _set(response, _cookie("ACCESS"), g.tokens.token, kept)
            _set(response, _cookie("REFRESH"), g.tokens.refresh_token, kept)
    if "access_token" in g:
        kept = _KEPT_SECONDS if session.get("is_kept", True) else None
        _set(response, _cookie("ACCESS"), g.access_token, kept)
    return response


def _set(response: Response, name: str, value: str, max_age: int | None) -> None:
    response.set_cookie(name, value, max_age=max_age, httponly=True, samesite="Lax", secure=_is_secure())


def _cookie(kind: str) -> str:
    return str(current_app.config[f"JWT_{kind}_COOKIE_NAME"])


def _is_secure() -> bool:
    return bool(current_app.config["JWT_COOKIE_SECURE"])
