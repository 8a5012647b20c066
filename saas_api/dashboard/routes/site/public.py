"""What anybody may see: what the product does, and what it costs."""

from typing import Any

from flask import Blueprint, request

from saas_api.billing.queries import catalogue
from saas_api.core.access import visitors
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import QueryInt, Schema, load
from saas_api.core.render import Form, page
from saas_api.core.settings import setting
from saas_api.dashboard.queries import prices

bp = Blueprint("public", __name__)


@bp.get("/")
@visitors
def landing() -> Any:
    """Show what the product does."""
    return page("public/landing.html", plans=prices.offered(session()), url=setting("APP_URL"))


@bp.get("/pricing")
@visitors
def pricing() -> Any:
    """Show what each plan costs, and what given quantities would cost on each."""
    form, status, meters = Form(request.args), 200, catalogue.units(session())
    quantities: dict[str, int] = {}
    try:
        asked = Schema.from_dict({meter: QueryInt() for meter in meters})()
        quantities = load(asked, {name: _plain(request.args[name]) for name in meters if request.args.get(name)})
    except Invalid as error:
        form.errors = {one["field"]: one["reason"] for one in error.details["fields"]}
        status = 422
    plans = prices.offered(session(), quantities)
    return page("public/pricing.html", status=status, plans=plans, meters=meters, form=form)


def _plain(number: str) -> str:
    """A number without what sets its thousands apart."""
    return number.replace(",", "").replace(" ", "")
