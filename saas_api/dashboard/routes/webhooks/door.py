"""The blueprint of the webhook pages, and what its doors share."""

from uuid import UUID

from flask import Blueprint, g

from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.organizations import service as organizations
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Endpoint

bp = Blueprint("webhooks", __name__)


def organization_id() -> UUID:
    """Of whoever is signed in."""
    found: UUID = g.principal.organization_id
    return found


def zone() -> str:
    """The organization's time zone, in which every page shows its times."""
    return organizations.get(session(), organization_id()).timezone


def get(endpoint_id: UUID) -> Endpoint:
    """An endpoint of the organization.

    raises: NoSuchEndpoint
    """
    return webhooks.get(session(), organization_id(), endpoint_id)


def check_typed(typed: str, wanted: str) -> None:
    """Let somebody pass who typed what they were asked to.

    raises: Invalid
    """
    if typed.strip().casefold() != wanted.casefold():
        raise Invalid.at("typed", f"Type {wanted} to confirm.")
