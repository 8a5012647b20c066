"""An organization in April, which has used the API since March."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.usage import APRIL_15, UsageOrganization, sign_up_organization


@pytest.fixture
def april() -> Iterator[None]:
    """Freeze time in April."""
    clock.freeze_time(APRIL_15)
    yield
    clock.freeze_time(None)


@pytest.fixture
def acme(client: FlaskClient) -> UsageOrganization:
    """Signed up on 1 March, with two keys."""
    organization = sign_up_organization(client, at=datetime(2026, 3, 1, 9, tzinfo=UTC))
    organization.make_key("first")
    organization.make_key("second")
    organization.open_period(clock.now())
    clock.freeze_time(datetime(2026, 4, 1, tzinfo=UTC))
    organization.open_period(clock.now())
    clock.freeze_time(APRIL_15)
    return organization
