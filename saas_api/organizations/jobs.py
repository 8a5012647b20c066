"""Sweep of organizations."""

from saas_api.core import timetable
from saas_api.organizations import service as organizations


@timetable.sweep
def publish_generations() -> None:
    organizations.publish_generations()
