"""Demo data: organizations with a history, for development."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="demo", system_purposes=("demo.seed",))
