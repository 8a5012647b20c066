"""Rate limit of test events, shared by API and pages."""

from flask import g

from saas_api.core.limits import limiter

TEST_EVENTS_PER_HOUR = 20


def _organization_key() -> str:
    return str(g.principal.organization_id)


limit_test_events = limiter.limiter.shared_limit(
    f"{TEST_EVENTS_PER_HOUR} per hour", scope="webhook-tests", key_func=_organization_key
)
