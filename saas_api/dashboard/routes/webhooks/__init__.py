"""The webhook pages: endpoints, deliveries, events."""

from saas_api.dashboard.routes.webhooks import deliveries, endpoints, events, secrets
from saas_api.dashboard.routes.webhooks.door import bp

__all__ = ["bp", "deliveries", "endpoints", "events", "secrets"]
