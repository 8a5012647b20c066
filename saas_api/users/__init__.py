"""People: one row a person, whichever organizations they belong to."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="users",
    id_prefixes=("usr",),
)
