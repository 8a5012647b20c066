"""Swagger UI at /docs/ and the OpenAPI document at /api/v1/openapi.json."""

import functools
import inspect
from pathlib import Path
from typing import Any

from flasgger import Swagger
from flask import Blueprint, Flask
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import Rule

from saas_api.core.access import public_view
from saas_api.core.web import http
from saas_api.docs import openapi
from saas_api.docs.openapi import ApiRoute

bp = Blueprint("docs", __name__)

API_PREFIX = "/api/v1/"


class ApiReference(Swagger):
    """flasgger with the document of `openapi`, instead of one from docstrings."""

    def get_apispecs(self, endpoint: str = "openapi") -> dict[str, Any]:
        """The document, generated once."""
        if endpoint not in self.apispecs:
            self.apispecs[endpoint] = openapi.build_openapi(list_api_routes(self.app))
        return self.apispecs[endpoint]


def list_api_routes(app: Flask) -> list[ApiRoute]:
    """Routes of the API, in the order of their paths."""
    routes = []
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        operation = getattr(view, "__operation__", None)
        if operation and rule.rule.startswith(API_PREFIX):
            routes += [_route(rule, method, view) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]
    return routes


def _route(rule: Rule, method: str, view: Any) -> ApiRoute:
    converters = rule._converters  # noqa: SLF001 - werkzeug exposes the converters of a rule nowhere else
    return ApiRoute(
        path=http.openapi_path(rule.rule),
        method=method,
        summary=inspect.getdoc(view) or rule.endpoint,
        parameters=[(name, getattr(converters[name], "prefix", None)) for name in http.path_parameters(rule.rule)],
        access=view.__access__,
        operation=view.__operation__,
    )


@bp.record_once
def _mount(state: BlueprintSetupState) -> None:
    ApiReference(state.app, config=_config())
    for endpoint, view in list(state.app.view_functions.items()):
        if endpoint.startswith("flasgger."):
            copy: Any = functools.update_wrapper(functools.partial(view), view)
            state.app.view_functions[endpoint] = public_view(copy)


def _config() -> dict[str, Any]:
    return {
        "title": "saas-api reference",
        "headers": [],
        "specs": [{"endpoint": "openapi", "route": "/api/v1/openapi.json"}],
        "static_folder": str(Path(__file__).with_name("static")),  # its own Swagger UI is of 2018 and not served
        "static_url_path": "/docs/assets",
        "specs_route": "/docs/",
        "oauth_redirect": "/docs/oauth2-redirect.html",
    }
