"""Webhook pages: the browser of alice, and ids for their paths."""

import pytest
from flask import Flask

from saas_api.core import ids
from tests.support.accounts import User
from tests.support.pages import Browser
from tests.support.webhooks import WebhookOrganization

HOOKS = "/dashboard/webhooks"
URL = "http://127.0.0.1:9/hook"


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    """The browser of alice."""
    return Browser(app, alice)


def create_path_ids(acme: WebhookOrganization) -> dict[str, str]:
    """Create an endpoint and a delivery, and return their ids by the names that paths use."""
    endpoint = acme.create_endpoint()
    acme.publish_event(number="INV-1")
    (row,) = acme.rows("SELECT id, event_id FROM webhook_deliveries")
    return {
        "endpoint": endpoint["id"],
        "delivery": ids.format_id("whd", row.id),
        "event": ids.format_id("evt", row.event_id),
    }
