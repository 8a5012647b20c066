"""Forward authentication: a proxy asks about each request, and the routes of its service say what the request needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.metering import verification
from saas_api.metering.verification import Verification, VerificationRequest
from saas_api.services import catalogue, route_file, routes, service_tokens
from saas_api.services.service_tokens import ServicePrincipal
from saas_api.usage import quantity_text


class NoRoute(NotFound):
    """No route of the service matches the request, and its routes do not admit others."""

    code, message = "NO_ROUTE", "Not found."


@dataclass(frozen=True)
class ProxiedRequest:
    """A request that a proxy asks about.

    uri: path and query as they were sent
    ip: of the customer; None when the proxy does not name it
    headers: of the request, by name in lower case
    """

    method: str
    uri: str
    key: str
    ip: str | None
    headers: Mapping[str, str]


def verify_request(service: ServicePrincipal, request: ProxiedRequest) -> Verification:
    """Verify the key of a request, and record what its route counts.

    raises: NoRoute, UnsafePath; ValidationFailed for a quantity that a header gives; InvalidServiceToken,
        CatalogueChanged
    """
    table = routes.find_table(service.service_id, service.generation)
    route = route_file.match(table.routes, request.method, request.uri)
    if route is None and not table.is_open:
        service_tokens.confirm(service, catalogue.read_generation())
        raise NoRoute
    permission, usage, unique_value, endpoint = None, None, None, None
    if route is not None:
        permission, endpoint = route.permission, f"{request.method.upper()} {route.pattern}"
        if route.meter is not None:
            usage, unique_value = verification.build_usage(
                service.generation, route.meter, _quantity(route, request), {}
            )
    question = VerificationRequest(
        request.key,
        permission=permission,
        usage=usage,
        unique_value=unique_value,
        ip=request.ip,
        endpoint=endpoint,
    )
    return verification.verify(service, question)


def _quantity(route: route_file.Route, request: ProxiedRequest) -> Decimal | None:
    if route.quantity_header is None:
        return route.quantity
    value = request.headers.get(route.quantity_header.lower())
    if value is None:
        return Decimal(1)
    try:
        return quantity_text.parse_quantity(value)
    except ValueError as error:
        raise ValidationFailed.at_field(route.quantity_header, str(error)) from error
