"""What the tests of webhook pages share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import ids as core_ids
from saas_api.core.db.engine import db
from tests.support.accounts import Person
from tests.support.pages import Browser
from tests.support.webhooks import Organization

HOOKS = "/dashboard/webhooks"
URL = "http://127.0.0.1:9/hook"


@contextmanager
def counted(app: Flask) -> Iterator[list[str]]:
    """The statements that run meanwhile."""
    seen: list[str] = []
    with app.app_context():
        engine = db.engine

    def note(*told: Any) -> None:
        seen.append(told[2])

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def browser(app: Flask, alice: Person) -> Browser:
    """Alice at the pages."""
    return Browser(app, alice)


def ids(acme: Organization) -> dict[str, str]:
    """One endpoint, one event and its delivery."""
    made = acme.create_endpoint()
    acme.publish_event(number="INV-1")
    (row,) = acme.rows("SELECT id, event_id FROM webhook_deliveries")
    return {
        "endpoint": made["id"],
        "delivery": core_ids.format_id("whd", row.id),
        "event": core_ids.format_id("evt", row.event_id),
    }
