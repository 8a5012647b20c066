"""The overview: what the platform carries, earns and owes to its queues."""

from datetime import date
from decimal import Decimal

from flask import Blueprint, Response

from saas_api.admin.queries import home as reads
from saas_api.admin.queries.reading import reading
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.money import exponent
from saas_api.core.render import charts, page
from saas_api.core.render.charts import Chart
from saas_api.core.render.filters import money

bp = Blueprint("home", __name__)
MOST_METERS = 4


@bp.get("/admin")
@operator("support")
def index() -> Response:
    """Show the platform at a glance."""
    now = clock.now()
    with reading() as session:
        found = reads.overview(session, now)
    return page(
        "admin/home.html",
        found=found,
        now=now,
        usage=_usage(found),
        revenue=[_revenue(found, currency) for currency in sorted(found.earned)],
    )


def _usage(found: reads.Overview) -> Chart:
    meters = sorted(found.used, key=lambda name: -sum(found.used[name].values()))[:MOST_METERS] or ["requests"]
    points: list[charts.Point] = [
        (_label(day), *(found.used.get(name, {}).get(day, 0) for name in meters)) for day in found.days
    ]
    return charts.bars("usage", "Accepted requests per day, all organizations (UTC)", points, series=meters)


def _revenue(found: reads.Overview, currency: str) -> Chart:
    by_day = found.earned[currency]
    places = exponent(currency)
    points = [(_label(day), Decimal(max(0, by_day.get(day, 0))).scaleb(-places)) for day in found.days]

    def fmt(value: Decimal) -> str:
        return money(int(value.scaleb(places)), currency)

    title = f"Invoiced per day, less credit notes ({currency}, UTC)"
    return charts.bars(f"revenue-{currency.lower()}", title, points, series=[currency], fmt=fmt)


def _label(day: date) -> str:
    return f"{day.day} {day:%b}"
