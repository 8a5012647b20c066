"""Choices that a browser remembers, and the organization one goes on in."""

from typing import Any

from flask import Blueprint, current_app, g, request

from saas_api.auth import service as auth
from saas_api.core.access import require, visitors
from saas_api.core.http import load
from saas_api.core.render import see_other
from saas_api.dashboard.schemas.preferences import PreferencesForm, SwitchForm

bp = Blueprint("preferences", __name__)
_YEAR_SECONDS = 365 * 86_400
_REMEMBERED = ("theme", "mode", "shortcuts")
_preferences, _switch = PreferencesForm(), SwitchForm()


@bp.post("/preferences")
@visitors
def remember() -> Any:
    """Remember a choice in a cookie, and go back."""
    wanted = load(_preferences, {name: request.form[name] for name in _preferences.fields if name in request.form})
    answer = see_other(wanted["back"])
    for name in _REMEMBERED:
        if wanted[name]:
            is_secure = current_app.config["JWT_COOKIE_SECURE"]
            answer.set_cookie(
                name, wanted[name], max_age=_YEAR_SECONDS, httponly=True, samesite="Lax", secure=is_secure
            )
    return answer


@bp.post("/dashboard/switch")
@require(None)
def switch() -> Any:
    """Go on in another organization."""
    wanted = load(_switch, {"organization_id": request.form.get("organization_id")})
    signed = auth.switch(g.principal, wanted["organization_id"])
    g.tokens = signed.tokens
    return see_other("/dashboard", _notice=f"You are in {signed.organization.name} now." if signed.organization else "")
