"""The history that the status page shows: minutes in each state by day, and incidents."""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="status", id_prefixes=("inc",))
