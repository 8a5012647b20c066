"""Who is calling, for which tenant, how fast: settled before every request, under a key in one Redis round trip.

Three hooks in this order: `authenticate`, Flask-Limiter's own (which asks our script), `settle`. A refusal found by the
first is counted by the second and raised by the third, so that refused calls are limited too.
"""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="gate", system_purposes=("gate.key",))
