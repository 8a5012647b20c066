"""The only way out to the street: who carries messages, and the platform's own mail."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="providers", system_purposes=("providers.checkout", "providers.mock"))
