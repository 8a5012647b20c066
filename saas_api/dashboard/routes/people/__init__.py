"""The pages of people: who belongs to the organization, and what they did."""

from saas_api.dashboard.routes.people import audit, roles
from saas_api.dashboard.routes.people.team import bp

__all__ = ["audit", "bp", "roles"]
