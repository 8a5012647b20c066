"""Deletion of the old events of a busy month, within the ten seconds of a statement."""

from typing import Any

from flask import Flask

from saas_api.webhooks import jobs
from tests.support.webhooks import WebhookOrganization

INSERT_OLD_EVENTS = """
WITH e AS (
  INSERT INTO events (organization_id, type, payload, subject_id, subject_version, created_at)
  SELECT w.organization_id, 'invoice.paid', '{}', gen_random_uuid(), 1, now() - interval '31 days'
    FROM webhook_endpoints w, generate_series(1, 2000) RETURNING organization_id, id)
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, status, finished_at)
SELECT e.organization_id, e.id, w.id, 'replay', 'delivered', now()
  FROM e JOIN webhook_endpoints w USING (organization_id), generate_series(1, 3)
"""


def test_many_old_events_are_deleted_with_their_deliveries(
    app: Flask, acme: WebhookOrganization, superuser: Any
) -> None:
    acme.create_endpoint()
    for _ in range(5):
        acme.execute(INSERT_OLD_EVENTS)
    with superuser, superuser.cursor() as cursor:  # as autovacuum would: these connections know empty tables
        cursor.execute("ANALYZE events, webhook_deliveries, webhook_attempts")
    with app.app_context():
        assert jobs.purge() == {"deleted": 10_000}
    assert acme.rows("SELECT FROM webhook_deliveries") == []
