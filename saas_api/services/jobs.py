"""Sweep of services: publish the generation of the catalogue again that Redis may have missed."""

from saas_api.core.jobs import schedule
from saas_api.services import catalogue


@schedule.sweep
def publish_generation() -> None:
    catalogue.republish_generation()
