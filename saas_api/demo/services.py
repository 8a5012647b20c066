"""The demo's service outside the application: its routes, its OpenAPI document, and a month of calls."""

from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core.db.tenancy import SystemSession
from saas_api.demo import timeline
from saas_api.services import route_file, routes, services
from saas_api.services.services import ServiceNameTaken

NAME = "geocoding"
_ROUTES = {
    "routes": [
        {"method": "GET", "path": "/v1/places/{id}", "permission": f"{NAME}:read"},
        {"method": "POST", "path": "/v1/places/*", "permission": f"{NAME}:write"},
    ]
}
_KEY_ONLY: list[dict[str, list[str]]] = [{"apiKey": []}]
_OPENAPI = {
    "openapi": "3.1.0",
    "info": {
        "title": "Geocoding",
        "version": "1.4.0",
        "description": "Addresses to places and back. Calls need a key with the scopes of `geocoding`.",
    },
    "paths": {
        "/v1/places/{id}": {
            "get": {
                "operationId": "get_place",
                "summary": "Show a place.",
                "security": _KEY_ONLY,
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": {"description": "The place."}, "404": {"description": "There is no such place."}},
            }
        },
        "/v1/places/search": {
            "post": {
                "operationId": "search_places",
                "summary": "Find the places of an address.",
                "security": _KEY_ONLY,
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["address"],
                                "properties": {"address": {"type": "string", "examples": ["1 Marina Road, Lagos"]}},
                            }
                        }
                    }
                },
                "responses": {"200": {"description": "The places, the most likely first."}},
            }
        },
    },
    "components": {"securitySchemes": {"apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}},
}
# Every service is called more by day than by night; times are in microseconds.
_INSERT_CALLS = text("""
INSERT INTO service_calls (service_id, bucket_at, operation, code, calls, total_us, max_us)
SELECT :service_id, hour, 'verify', code, n, n * mean_us, mean_us * 9
  FROM generate_series(date_trunc('hour', now()) - interval '30 days', now(), interval '1 hour') hour
  CROSS JOIN (VALUES ('VALID', 40, 3100), ('RATE_LIMITED', 2, 1900), ('NOT_FOUND', 1, 2400)) v (code, weight, mean_us)
  CROSS JOIN LATERAL (SELECT (weight * (12 - abs(extract(hour FROM hour) - 12)) / 4)::int AS n) counted WHERE n > 0""")
_SET_LAST_SEEN = text("UPDATE services SET last_seen_at = now() - interval '3 minutes' WHERE id = :service_id")


def create_service() -> None:
    """Create the service, whose token nobody knows, unless it exists."""
    with timeline.demo_session() as session:
        try:
            _create(session)
        except ServiceNameTaken:
            return


def _create(session: SystemSession) -> None:
    operator = OperatorContext(SYSTEM_ACTOR, "demo data")
    service = services.create_service(session, operator, NAME).service
    routes.set_routes(session, NAME, operator, route_file.load_routes(_ROUTES))
    services.set_openapi(session, NAME, operator, _OPENAPI)
    for statement in (_INSERT_CALLS, _SET_LAST_SEEN):
        session.execute(statement, {"service_id": service.id})
