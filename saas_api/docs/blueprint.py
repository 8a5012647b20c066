"""Swagger UI at /docs/explorer, the OpenAPI document at /api/v1/openapi.json, and the documents of services."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flasgger import Swagger
from flask import Blueprint, Flask, Response, make_response, url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import Rule

from saas_api.core.access import public_view
from saas_api.core.db import engine
from saas_api.core.web import app as web_app
from saas_api.core.web import http, pages
from saas_api.docs import openapi, samples
from saas_api.docs.openapi import ApiRoute
from saas_api.services import services

bp = Blueprint("docs", __name__)

API_PREFIX = "/api/v1/"
_ORIGIN = re.compile(r"(https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)(?:/.*)?")


class ApiReference(Swagger):
    """flasgger with the document of `openapi`, instead of one from docstrings."""

    def get_apispecs(self, endpoint: str = "openapi") -> dict[str, Any]:
        """The document, generated once."""
        if endpoint not in self.apispecs:
            config = self.app.config
            self.apispecs[endpoint] = openapi.build_openapi(
                list_api_routes(self.app), config["APP_URL"], config["BRAND_NAME"]
            )
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


@bp.get("/docs/explorer/<name>")
@public_view
def show_service(name: str) -> Response:
    """Show the reference of a service."""
    services.get_openapi(engine.session(), name)
    specs = [{"url": url_for("docs.service_document", name=name)}]
    return _allow_servers(pages.render_page("flasgger/index.html", specs=specs, service=name))


def _allow_servers(response: Response) -> Response:
    """Let the page send requests to the servers that the documents of services name; it shows any of them."""
    session = engine.session()
    documents = [services.get_openapi(session, name) for name in services.list_documented(session)]
    origins = sorted({origin for document in documents for origin in _server_origins(document)})
    response.headers["Content-Security-Policy"] = web_app.page_csp(connect_to=origins)
    return response


def _show_platform(view: Callable[..., Any]) -> Any:
    return _allow_servers(make_response(view()))


@bp.get("/docs/explorer/<name>/openapi.json")
@public_view
def service_document(name: str) -> Response:
    """The OpenAPI document of a service."""
    return http.json_response(services.get_openapi(engine.session(), name), 200)


def _server_origins(document: dict[str, Any]) -> list[str]:
    """Origins of the absolute addresses in `servers`."""
    servers = document.get("servers")
    addresses = (
        [server.get("url") for server in servers if isinstance(server, dict)] if isinstance(servers, list) else []
    )
    matches = [_ORIGIN.fullmatch(address) for address in addresses if isinstance(address, str)]
    return sorted({match[1] for match in matches if match})


def _list_documented_services() -> Sequence[str]:
    return services.list_documented(engine.session())


@bp.record_once
def _mount(state: BlueprintSetupState) -> None:
    ApiReference(state.app, config=_config())
    state.app.jinja_env.globals.update(documented_services=_list_documented_services, render_call=samples.render_call)
    for endpoint, view in list(state.app.view_functions.items()):
        if endpoint.startswith("flasgger."):
            copy: Any = functools.update_wrapper(functools.partial(view), view)
            state.app.view_functions[endpoint] = public_view(copy)
    view = state.app.view_functions["flasgger.apidocs"]
    reference: Any = functools.update_wrapper(functools.partial(_show_platform, view), view)
    state.app.view_functions["flasgger.apidocs"] = public_view(reference)


def _config() -> dict[str, Any]:
    return {
        "headers": [],
        "specs": [{"endpoint": "openapi", "route": "/api/v1/openapi.json"}],
        "static_folder": str(Path(__file__).with_name("static")),  # its own Swagger UI is of 2018 and not served
        "static_url_path": "/docs/assets",
        "specs_route": "/docs/explorer",
        "oauth_redirect": "/docs/oauth2-redirect.html",
    }
