"""The organization of these tests."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.usage import UsageOrganization
from tests.support.usage_pages import TODAY, create_used_organization


@pytest.fixture
def acme(app: Flask, client: FlaskClient) -> Iterator[UsageOrganization]:
    """Signed up on 1 March, with two keys that were used, once over the limit; it is the middle of April."""
    clock.freeze_time(TODAY)
    yield create_used_organization(client)
    clock.freeze_time(None)
