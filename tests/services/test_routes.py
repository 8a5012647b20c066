"""Routes of services as they are stored, and the tables that processes match with."""

from typing import Any

import pytest
from flask import Flask

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from saas_api.services import catalogue, route_file, routes, services
from saas_api.services.route_file import RouteTable
from tests.support.accounts import User
from tests.support.services import PURPOSE, change_service, create_service

ROUTES = [
    {"method": "POST", "path": "/v1/lookups", "permission": "lookups:export", "meter": "sms", "quantity": "2.5"},
    {"method": "GET", "path": "/v1/lookups/{id}"},
]


def set_routes(app: Flask, document: Any) -> Any:
    return change_service(app, routes.set_routes, "lookups", route_file.load_routes(document))


def find_table(app: Flask, service_id: Any) -> RouteTable:
    with app.app_context():
        return routes.find_table(service_id, catalogue.read_generation())


def test_routes_are_matched_from_the_next_call_on(app: Flask) -> None:
    create_service(app)
    service = set_routes(app, ROUTES)
    table = find_table(app, service.id)
    assert table == route_file.load_routes(ROUTES)
    set_routes(app, {"default": "allow", "routes": ROUTES[1:]})
    assert find_table(app, service.id) == route_file.load_routes({"default": "allow", "routes": ROUTES[1:]})
    change_service(app, services.revoke_service, "lookups")
    assert find_table(app, service.id) == RouteTable()


def test_stored_routes_are_those_of_the_file(app: Flask) -> None:
    create_service(app)
    set_routes(app, ROUTES)
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        table = routes.get_table(session, services.get_service(session, "lookups"))
    assert route_file.to_document(table)["routes"] == ROUTES


def test_permission_of_a_route_is_a_scope_of_the_service(app: Flask, alice: User) -> None:
    create_service(app, scopes=["lookups:admin"])
    set_routes(app, ROUTES)
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", alice.organization_id)) as session:
        assert services.list_scopes(session)["lookups"] == [
            "lookups:read",
            "lookups:write",
            "lookups:admin",
            "lookups:export",
        ]


def test_unknown_meter_and_permission_of_the_application_are_refused(app: Flask) -> None:
    create_service(app)
    for change, field in (({"meter": "nothing"}, "routes.1.meter"), ({"permission": "keys:write"}, "permission")):
        with pytest.raises(ValidationFailed) as refused:
            set_routes(app, [ROUTES[0], {**ROUTES[1], **change}])
        assert [problem["field"] for problem in refused.value.details["fields"]] == [field]
