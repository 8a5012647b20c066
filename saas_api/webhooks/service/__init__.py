"""The verbs of webhooks and their errors: publishing, endpoints and their secrets, repeats and recovery."""

from saas_api.webhooks.service.claiming import due
from saas_api.webhooks.service.disabling import disable_failing, purge
from saas_api.webhooks.service.endpoints import (
    EndpointDisabled,
    NoSuchEndpoint,
    TooManyEndpoints,
    cancel_queued,
    change,
    create,
    delete,
    get,
)
from saas_api.webhooks.service.publishing import (
    DRAIN,
    News,
    Subject,
    is_named,
    publish,
    publish_many,
    publish_statement,
)
from saas_api.webhooks.service.recovery import recover
from saas_api.webhooks.service.repeats import NoSuchDelivery, NoSuchEvent, get_delivery, replay, resend, try_out
from saas_api.webhooks.service.secrets import issue, live_secrets, reseal, rotate
from saas_api.webhooks.service.sending import deliver_due

__all__ = [
    "DRAIN",
    "EndpointDisabled",
    "News",
    "NoSuchDelivery",
    "NoSuchEndpoint",
    "NoSuchEvent",
    "Subject",
    "TooManyEndpoints",
    "cancel_queued",
    "change",
    "create",
    "delete",
    "deliver_due",
    "disable_failing",
    "due",
    "get",
    "get_delivery",
    "is_named",
    "issue",
    "live_secrets",
    "publish",
    "publish_many",
    "publish_statement",
    "purge",
    "recover",
    "replay",
    "reseal",
    "resend",
    "rotate",
    "try_out",
]
