"""Schedule entry point of usage."""

from saas_api.core.timetable import MINUTE, scheduled
from saas_api.usage import service as usage


@scheduled("usage.roll_up", every=MINUTE, description="Add settled usage events to the rollups that dashboards read.")
def roll_up() -> None:
    usage.roll_up()
