"""HTTP API of portal sessions, for services and operators."""

from typing import Any

from flask import Blueprint, g

from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import OrganizationClosed, OrganizationNotFound
from saas_api.core.access import require_service
from saas_api.core.web.endpoint import ViewResult, endpoint
from saas_api.metering.refusals import OrganizationSuspended
from saas_api.portal import sessions
from saas_api.portal.schemas import PortalSessionIn, PortalSessionOut
from saas_api.portal.sessions import PortalMaker

bp = Blueprint("portal_sessions", __name__)


@bp.post("/portal-sessions")
@require_service(operator_role="admin")
@endpoint(
    operation_id="create_portal_session",
    tag="portal",
    body=PortalSessionIn(),
    returns=PortalSessionOut(),
    status=201,
    errors=(OrganizationNotFound, OrganizationClosed, OrganizationSuspended),
    is_replayable=False,
)
def create_session(body: dict[str, Any]) -> ViewResult:
    """Create a link to the customer portal of an organization.

    Send your customer to `url`, or embed it. It opens once, within 15 minutes, and shows pages of the scopes for an
    hour after the last use. Create a link each time: none is kept, and a repeat makes another one.
    """
    return ViewResult(sessions.create_link(_maker(), **body), is_secret=True)


def _maker() -> PortalMaker:
    if "service" in g:
        return PortalMaker(Actor("system", g.service.name), service_token_id=g.service.token_id)
    return PortalMaker(Actor("operator", str(g.principal.id)), operator_id=g.principal.id)
