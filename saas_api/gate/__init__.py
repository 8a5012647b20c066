"""Authentication, authorization and limits before each request.

Three hooks run in this order: `hooks.authenticate`; Flask-Limiter's own, which runs the script of the gate in Redis;
`hooks.enforce_limits`. A refusal found by the first is counted by the second and raised by the third, so that refused
calls are limited too. A call with an API key takes one round trip to Redis.
"""

from saas_api.core.domain import Domain

DOMAIN = Domain(name="gate")
