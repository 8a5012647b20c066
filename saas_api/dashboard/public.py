"""Landing and pricing pages, preferences."""

from typing import Any

from flask import Blueprint, g, request
from marshmallow import fields, validate

from saas_api.accounts import sessions
from saas_api.billing import plans
from saas_api.core.access import public_page, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import PrefixedId, QueryInteger, StrictSchema
from saas_api.core.settings import setting
from saas_api.core.web import http, pages
from saas_api.core.web.forms import Form
from saas_api.dashboard import prices

bp = Blueprint("public", __name__)


class PreferencesForm(StrictSchema):
    """How pages look and which data they show; only what is named changes."""

    theme = fields.String(load_default=None, validate=validate.OneOf(("system", "light", "dark")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    shortcuts = fields.String(load_default=None, validate=validate.OneOf(("on", "off")))
    back = fields.String(load_default="/dashboard", validate=validate.Regexp(r"/(?![/\\])[^\s\\]*"))


class SwitchOrganizationForm(StrictSchema):
    """Where to go on."""

    organization_id = PrefixedId("org", required=True)


_preferences, _switch = PreferencesForm(), SwitchOrganizationForm()


@bp.post("/preferences")
@public_page
def set_preference() -> Any:
    """Remember a choice in a cookie, and go back."""
    wanted = http.load_schema(
        _preferences, {name: request.form[name] for name in _preferences.fields if name in request.form}
    )
    g.changed_preferences = {name: wanted[name] for name in g.preferences if wanted[name]}
    return pages.redirect_to(wanted["back"])


@bp.post("/dashboard/switch")
@require_permission(None)
def switch_organization() -> Any:
    """Go on in another organization."""
    wanted = http.load_schema(_switch, {"organization_id": request.form.get("organization_id")})
    signed = sessions.switch_organization(g.principal, wanted["organization_id"])
    g.tokens = signed.tokens
    return pages.redirect_to(
        "/dashboard", _notice=f"You are in {signed.organization.name} now." if signed.organization else ""
    )


@bp.get("/")
@public_page
def landing() -> Any:
    """Show what the product does."""
    return pages.render_page(
        "public/landing.html", plans=prices.list_plan_cards(engine.session()), url=setting("APP_URL")
    )


@bp.get("/pricing")
@public_page
def pricing() -> Any:
    """Show what each plan costs, and what given quantities would cost on each."""
    form, status, meters = Form(request.args), 200, plans.meter_units(engine.session())
    quantities: dict[str, int] = {}
    try:
        asked = StrictSchema.from_dict({meter: QueryInteger() for meter in meters})()
        quantities = http.load_schema(
            asked, {name: _price_text(request.args[name]) for name in meters if request.args.get(name)}
        )
    except ValidationFailed as error:
        form.errors = {one["field"]: one["reason"] for one in error.details["fields"]}
        status = 422
    cards = prices.list_plan_cards(engine.session(), quantities)
    return pages.render_page("public/pricing.html", status=status, plans=cards, meters=meters, form=form)


def _price_text(number: str) -> str:
    """A number without what sets its thousands apart."""
    return number.replace(",", "").replace(" ", "")
