"""Landing and pricing pages, preferences in cookies, switching the organization."""

from typing import Any

import marshmallow as ma
from flask import Blueprint, g, request
from marshmallow import fields, validate

from saas_api.accounts import sessions
from saas_api.accounts.schemas import SwitchOrganizationIn
from saas_api.accounts.tokens import TokenAudience
from saas_api.core.access import KeyMode, public_page, require_permission
from saas_api.core.db import engine
from saas_api.core.fields import QueryInteger, StrictSchema
from saas_api.core.settings import setting
from saas_api.core.web import http, pages
from saas_api.core.web.forms import Form
from saas_api.dashboard import prices
from saas_api.services import services
from saas_api.usage import meters

bp = Blueprint("public", __name__)

_CALLS_PER_MINUTE = "calls_per_minute"


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
        "/dashboard", _notice=f"Switched to {session.organization.name}." if session.organization else ""
    )


@bp.get("/")
@public_page
def landing() -> Any:
    """Show the landing page."""
    table = prices.compare_offers(engine.session())
    return pages.render_page(
        "public/landing.html",
        table=table,
        lowest=prices.list_lowest_prices(table, meters.all_meters(engine.session())),
        has_messages=bool({"all", "messages"} & set(setting("SERVICES"))),
        documented=services.list_documented(engine.session()),
        url=setting("APP_URL"),
    )


@bp.get("/pricing")
@public_page
def pricing() -> Any:
    """Show the plans, and the cost of given quantities on each."""
    form, by_code = Form(request.args), meters.all_meters(engine.session())
    given: dict[str, int] = {}
    for name in (*by_code, _CALLS_PER_MINUTE):
        number = request.args.get(name, "").replace(",", "").replace(" ", "")
        try:
            given |= {name: QueryInteger().deserialize(number)} if number else {}
        except ma.ValidationError as error:
            form.errors[name] = str(error.messages[0])
    quantities = {} if form.errors else {name: given[name] for name in by_code if name in given}
    table = prices.compare_offers(engine.session(), quantities, given.get(_CALLS_PER_MINUTE, 0))
    priced = [price for plan in table.plans for price in plan.version.prices.items()]
    return pages.render_page(
        "public/pricing.html",
        status=422 if form.errors else 200,
        table=table,
        cheapest=next((plan for plan in table.plans if plan.code == table.cheapest_code), None),
        has_quantities=bool(quantities),
        has_several_prices=any(price.dimension for _, price in priced),
        meters=[meter for code, meter in sorted(by_code.items(), reverse=True) if code in dict(priced)],
        form=form,
    )
