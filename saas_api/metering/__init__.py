"""Metered calls: decisions on API keys and limits, recording of usage, holds, verification, ingestion of events."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="metering",
    id_prefixes=("uev", "hld"),
    system_purposes=(
        "metering.events",
        "metering.holds",
        "metering.key",
        "metering.reversals",
        "metering.subjects",
    ),
)
