"""Callers of pages: a person by cookies, renewed within the request, whose forms must come from our own pages.

Cookies are read and written nowhere else. A view that begins a session puts its tokens into `g.tokens`.
"""

from dataclasses import replace

from flask import Response, current_app, g, request, session
from flask_limiter import RateLimitExceeded
from limits import parse as parse_limit
from sqlalchemy.exc import OperationalError

from saas_api.auth import service as auth
from saas_api.core import crypto
from saas_api.core.access import Access, Principal
from saas_api.core.errors import Unauthenticated
from saas_api.core.limits import gate_limit, limiter
from saas_api.core.render import FormExpired, is_own_form
from saas_api.core.render.forms import PASSWORD

LOOKING, LOOKED_AT = "looking", "/dashboard"
MODE, MODES = "mode", ("live", "test")
_READING = ("GET", "HEAD")
_KEPT_SECONDS = 30 * 86_400
_PASSWORDS = parse_limit("10 per 15 minutes")


def recognise(asked: Access) -> None:
    """Find out who opens a page or sends a form.

    raises: Unauthenticated where nobody is signed in and somebody must be, FormExpired, RateLimitExceeded
    """
    if asked.is_public and not asked.is_visited:
        return
    try:
        person = _looking() or _signed_in()
    except OperationalError:  # without PostgreSQL nobody is known, and the status is shown all the same
        if not asked.is_visited:
            raise
        person = None
    if person is not None and person.session_id is not None:
        own = _own_session() if person.is_looking else None
        g.csrf = auth.csrf_of(own or person.session_id.hex)
        g.user_id = person.id
    if person is None and not asked.is_visited:
        raise Unauthenticated
    if request.method not in _READING and not is_own_form():
        raise FormExpired
    if asked.is_visited or person is None:
        g.visitor = person
    else:
        g.principal = replace(_proven(person), mode=_mode())


def _looking() -> Principal | None:
    token = request.cookies.get(LOOKING)
    if not token or not request.path.startswith(LOOKED_AT):
        return None
    try:
        person = auth.principal_of(token)
    except (auth.InvalidToken, auth.TokenExpired):
        return None
    return person if person.is_looking else None


def _own_session() -> str | None:
    """The session of an operator who looks: what leads away from there is theirs."""
    try:
        return auth.session_of(request.cookies.get(_cookie("REFRESH"), ""))
    except (auth.InvalidToken, auth.TokenExpired):
        return None


def _signed_in() -> Principal | None:
    """Who holds the cookies; an access token whose time is over is renewed, unless only a poll asks."""
    try:
        return auth.principal_of(request.cookies.get(_cookie("ACCESS"), ""))
    except (auth.InvalidToken, auth.TokenExpired):
        renewal = request.cookies.get(_cookie("REFRESH"))
    if not renewal or "X-Poll" in request.headers:
        return None
    try:
        if request.method not in _READING:
            g.csrf = auth.csrf_of(auth.session_of(renewal))
            if not is_own_form():
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
    if not limiter.limiter.test(_PASSWORDS, who, "password"):
        raise RateLimitExceeded(gate_limit(10, 900_000, "password"))
    try:
        g.access_token = auth.prove_again(person, offered)
    except auth.InvalidCredentials:
        limiter.limiter.hit(_PASSWORDS, who, "password")
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
