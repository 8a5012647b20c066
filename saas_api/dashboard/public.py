"""Landing and pricing pages, preferences in cookies, switching the organization."""

from typing import Any

from flask import Blueprint, g, request
from marshmallow import fields, validate

from saas_api.accounts import sessions
from saas_api.accounts.schemas import SwitchOrganizationIn
from saas_api.accounts.tokens import TokenAudience
from saas_api.billing import plans
from saas_api.core.access import KeyMode, public_page, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import QueryInteger, StrictSchema
from saas_api.core.settings import setting
from saas_api.core.web import http, pages
from saas_api.core.web.forms import Form
from saas_api.dashboard import prices

bp = Blueprint("public", __name__)


class PreferencesForm(StrictSchema):
    """Theme, mode and shortcuts; absent fields stay unchanged."""

    theme = fields.String(load_default=None, validate=validate.OneOf(("system", "light", "dark")))
    mode = fields.String(load_default=None, validate=validate.OneOf(list(KeyMode)))
    shortcuts = fields.String(load_default=None, validate=validate.OneOf(("on", "off")))
    back = fields.String(load_default="/dashboard", validate=validate.Regexp(r"/(?![/\\])[^\s\\]*"))


_preferences, _switch = PreferencesForm(), SwitchOrganizationIn()


@bp.post("/preferences")
@public_page
def set_preference() -> Any:
    """Store preferences in cookies and redirect back."""
    preferences = http.load_schema(
        _preferences, {name: request.form[name] for name in _preferences.fields if name in request.form}
    )
    g.changed_preferences = {name: preferences[name] for name in g.preferences if preferences[name]}
    return pages.redirect_to(preferences["back"])


@bp.post("/dashboard/switch")
@require_permission(None)
def switch_organization() -> Any:
    """Switch to another organization."""
    body = http.load_schema(_switch, {"organization_id": request.form.get("organization_id")})
    session = sessions.switch_organization(g.principal, body["organization_id"], TokenAudience.PAGES)
    g.tokens = session.tokens
    return pages.redirect_to(
        "/dashboard", _notice=f"You are in {session.organization.name} now." if session.organization else ""
    )


@bp.get("/")
@public_page
def landing() -> Any:
    """Show the landing page."""
    return pages.render_page(
        "public/landing.html", plans=prices.list_plan_cards(engine.session()), url=setting("APP_URL")
    )


@bp.get("/pricing")
@public_page
def pricing() -> Any:
    """Show the plans, and the cost of given quantities on each."""
    form, status, meters = Form(request.args), 200, plans.meter_units(engine.session())
    quantities: dict[str, int] = {}
    try:
        schema = StrictSchema.from_dict({meter: QueryInteger() for meter in meters})()
        quantities = http.load_schema(
            schema, {name: _price_text(request.args[name]) for name in meters if request.args.get(name)}
        )
    except ValidationFailed as error:
        form.errors = {problem["field"]: problem["reason"] for problem in error.details["fields"]}
        status = 422
    cards = prices.list_plan_cards(engine.session(), quantities)
    return pages.render_page("public/pricing.html", status=status, plans=cards, meters=meters, form=form)


def _price_text(number: str) -> str:
    """Removes thousands separators."""
    return number.replace(",", "").replace(" ", "")
