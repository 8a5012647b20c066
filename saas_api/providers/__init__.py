"""Adapters of external services: message, mail and payment providers."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="providers", home_purposes=("providers.checkout", "providers.mock"))
