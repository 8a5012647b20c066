"""Scheduled job of metering: the expiry of holds."""

from collections.abc import Mapping

from saas_api.core import clock
from saas_api.core.jobs.schedule import MINUTE, scheduled
from saas_api.metering import holds


@scheduled("metering.holds", every=MINUTE, description="End the holds whose time is over, and report it.")
def expire_holds() -> Mapping[str, int]:
    return {"expired": holds.expire_holds(clock.now())}
