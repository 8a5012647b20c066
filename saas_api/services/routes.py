"""Routes of services as they are stored, and the cached tables that forward authentication matches."""

from collections import defaultdict
from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa

from saas_api.accounts.audit import OperatorContext
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.services import catalogue, route_file, services
from saas_api.services.catalogue import CachedCatalogue
from saas_api.services.models import Service, ServiceRoute
from saas_api.services.route_file import Route, RouteTable

_KNOWN_METERS = sa.text("SELECT code FROM meters WHERE code = ANY (:codes) AND archived_at IS NULL")


def set_routes(session: SystemSession, name: str, operator: OperatorContext, table: RouteTable) -> Service:
    """Replace the routes of a service.

    raises: ServiceNotFound, ServiceRevoked; ValidationFailed for an unknown or archived meter, or a permission that
        this application has itself
    """
    service = services.lock_service(session, name)
    _check(session, table)
    before = route_file.to_document(get_table(session, service))
    session.execute(sa.delete(ServiceRoute).filter_by(service_id=service.id))
    service.is_open = table.is_open
    session.add_all(
        ServiceRoute(
            service_id=service.id,
            ordinal=ordinal,
            method=route.method,
            pattern=route.pattern,
            permission=route.permission,
            meter_code=route.meter,
            quantity=route.quantity,
            quantity_header=route.quantity_header,
        )
        for ordinal, route in enumerate(table.routes, 1)
    )
    change = {"before": before, "after": route_file.to_document(table)}
    services.record_change(session, service, operator, "routes_changed", change)
    catalogue.bump(session)
    session.flush()
    return service


def _check(session: SystemSession, table: RouteTable) -> None:
    codes = {route.meter for route in table.routes if route.meter}
    known = set(session.scalars(_KNOWN_METERS, {"codes": sorted(codes)}))
    problems = [
        (f"routes.{index}.meter", f"there is no meter {route.meter}")
        for index, route in enumerate(table.routes)
        if route.meter and route.meter not in known
    ]
    if problems:
        raise ValidationFailed.from_fields(problems)
    services.check_scopes("permission", {route.permission for route in table.routes if route.permission})


def get_table(session: SystemSession, service: Service) -> RouteTable:
    """The routes of a service as they are stored."""
    rows = session.scalars(sa.select(ServiceRoute).filter_by(service_id=service.id).order_by(ServiceRoute.ordinal))
    return RouteTable(tuple(_to_route(row) for row in rows), service.is_open)


def _to_route(row: ServiceRoute) -> Route:
    return Route(row.method, row.pattern, row.permission, row.meter_code, row.quantity, row.quantity_header)


def _load_tables(session: SystemSession) -> Mapping[UUID, RouteTable]:
    routes: defaultdict[UUID, list[Route]] = defaultdict(list)
    statement = sa.select(ServiceRoute).order_by(ServiceRoute.service_id, ServiceRoute.ordinal)
    for row in session.scalars(statement):
        routes[row.service_id].append(_to_route(row))
    active = sa.select(Service.id, Service.is_open).where(Service.revoked_at.is_(None))
    return {row.id: RouteTable(tuple(routes[row.id]), row.is_open) for row in session.execute(active)}


_tables: CachedCatalogue[Mapping[UUID, RouteTable]] = CachedCatalogue(_load_tables)


def find_table(service_id: UUID, generation: int | None) -> RouteTable:
    """The routes of a service from the cache; none for a service that was revoked.

    generation: as for `CachedCatalogue.get_entry`
    """
    return _tables.get(generation).get(service_id, RouteTable())
