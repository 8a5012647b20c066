"""`flask demo seed`: companies with a past to look around in; for development only."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="demo", system_purposes=("demo.seed",))
