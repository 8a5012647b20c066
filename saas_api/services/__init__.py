"""Services outside this application: their tokens, scopes, routes, statistics and OpenAPI documents."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="services",
    id_prefixes=("svc",),
    home_purposes=("services.calls", "services.catalogue", "services.tokens"),
)
