"""How answers look: pages and their forms, errors, tables as CSV, files such as the style sheet."""

from flask import Flask

from saas_api.core.render import assets, filters
from saas_api.core.render.errors import render_error
from saas_api.core.render.forms import Form, FormExpired, csrf_token, form_key, is_own_form, submits
from saas_api.core.render.pages import page, see_other
from saas_api.core.render.tables import csv_response

__all__ = [
    "Form",
    "FormExpired",
    "csrf_token",
    "csv_response",
    "init_app",
    "is_own_form",
    "page",
    "render_error",
    "see_other",
    "submits",
]


def init_app(app: Flask) -> None:
    """Give an application its filters, the macros `ui` and `charts`, and the files its pages load."""
    environment = app.jinja_env
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(filters.FILTERS)
    environment.globals.update(
        asset=assets.address,
        no_form=Form(),
        csrf_token=csrf_token,
        form_key=form_key,
        may=filters.may,
        plural=filters.plural,
    )
    app.add_url_rule("/static/<name>", "static", assets.serve)
    environment.globals["ui"] = environment.get_template("_macros.html").module
    environment.globals["charts"] = environment.get_template("_chart.html").module
