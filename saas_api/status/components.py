"""The components of the product, as the status page names them."""

from enum import StrEnum


class Component(StrEnum):
    """A part of the product that can be slow or down by itself."""

    API = "api"
    MESSAGES = "messages"
    WEBHOOKS = "webhooks"
    JOBS = "jobs"


class ComponentState(StrEnum):
    """How a component works."""

    OK = "ok"
    SLOW = "slow"
    DOWN = "down"


NAMES = {
    Component.API: "API",
    Component.MESSAGES: "Message delivery",
    Component.WEBHOOKS: "Webhooks",
    Component.JOBS: "Billing and scheduled work",
}
STATE_NAMES = {
    ComponentState.OK: "Operational",
    ComponentState.SLOW: "Degraded",
    ComponentState.DOWN: "Down",
}
