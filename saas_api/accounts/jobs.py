"""Job of the sweep: publish generations again that Redis may have missed."""

from saas_api.accounts import organizations
from saas_api.core.jobs import schedule


@schedule.sweep
def publish_generations() -> None:
    organizations.republish_generations()
