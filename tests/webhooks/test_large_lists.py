"""Lists of an endpoint with many deliveries: they read what they show, and not its whole history."""

from typing import Any

import pytest
from flask import Flask

from saas_api.core import ids
from saas_api.core.db.pagination import PageRequest
from saas_api.dashboard import webhook_deliveries
from saas_api.dashboard.webhook_deliveries import DeliveryFilter
from saas_api.webhooks import deliveries
from saas_api.webhooks.models import DeliveryState
from tests.support.large_tables import ROWS, insert_rows
from tests.support.query_plans import collect_scans
from tests.support.webhooks import WebhookOrganization

_EVENTS = """
INSERT INTO events (organization_id, id, type, payload, subject_id, subject_version)
SELECT organization_id, gen_random_uuid(), type, payload, gen_random_uuid(), 1 FROM events, generate_series(1, 19999)
WHERE organization_id = %s"""
# Of an event each, one a minute; of each thousand the second failed, the third was canceled, the fourth is retried.
_DELIVERIES = """
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, attempts, created_at, status, next_at,
  finished_at)
SELECT e.organization_id, e.id, w.id, 'replay', 1, t.at, t.status, CASE t.status WHEN 'queued' THEN t.at END,
  CASE WHEN t.status <> 'queued' THEN t.at END
FROM (SELECT organization_id, id, row_number() OVER (ORDER BY sequence) - 1 AS n FROM events) e
  JOIN webhook_endpoints w USING (organization_id),
  LATERAL (SELECT now() - n * interval '1 minute', CASE n %% 1000 WHEN 1 THEN 'failed' WHEN 2 THEN 'canceled'
    WHEN 3 THEN 'queued' ELSE 'delivered' END) t (at, status)
WHERE e.organization_id = %s"""


@pytest.fixture
def busy(context: Flask, acme: WebhookOrganization, superuser: Any) -> WebhookOrganization:
    """An organization with an endpoint of 20,000 deliveries."""
    acme.create_endpoint()
    acme.publish_event()
    acme.finish_deliveries("delivered")
    insert_rows(superuser, "events", _EVENTS, str(acme.id))
    insert_rows(superuser, "webhook_deliveries", _DELIVERIES, str(acme.id))
    return acme


def test_rare_deliveries_are_listed_and_counted_without_reading_the_others(
    app: Flask, busy: WebhookOrganization
) -> None:
    [endpoint] = busy.rows("SELECT id FROM webhook_endpoints")
    expected = {"failed": 20, "canceled": 20, "retrying": 20, "queued": 0, "sending": 0}
    with collect_scans(app, "webhook_deliveries") as scans, busy.transaction() as session:
        for state, count in expected.items():
            request = PageRequest(50)
            page = webhook_deliveries.list_all_deliveries(
                session, busy.id, DeliveryFilter("live", status=state), request
            )
            assert len(page.items) == count
            assert {row.state for row in page.items} <= {DeliveryState(state)}
            page = deliveries.list_deliveries(session, busy.id, endpoint.id, request, status=state)
            assert len(page.items) == count
    assert sum(scan.rows_read for scan in scans) < ROWS / 50
    with collect_scans(app, "webhook_deliveries") as scans, busy.transaction() as session:
        counts = webhook_deliveries.count_by_state(session, busy.id, [endpoint.id])
    assert counts == {**expected, "delivered": 1001}
    assert sum(scan.rows_read for scan in scans) < ROWS / 10


def test_unknown_event_is_searched_without_reading_deliveries(app: Flask, busy: WebhookOrganization) -> None:
    with collect_scans(app, "webhook_deliveries") as scans, busy.transaction() as session:
        for prefix in ("whd", "evt", "inv"):
            filters = DeliveryFilter("live", found=ids.new_id(), found_prefix=prefix)
            page = webhook_deliveries.list_all_deliveries(session, busy.id, filters, PageRequest(50))
            assert page.items == []
    assert sum(scan.rows_read for scan in scans) < ROWS / 100
