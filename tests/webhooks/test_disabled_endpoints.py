"""Pending deliveries of an endpoint that is deleted or disabled."""

import threading
from collections.abc import Callable

import pytest
from flask import Flask

from tests.support.http_receiver import run_receiver, wait_until
from tests.support.webhooks import WebhookOrganization, deliver

DELIVERY_STATUSES = "SELECT status FROM webhook_deliveries"
EndEndpoint = Callable[[WebhookOrganization, str], int]


def delete(acme: WebhookOrganization, path: str) -> int:
    return int(acme.call("DELETE", path).status_code)


def disable(acme: WebhookOrganization, path: str) -> int:
    return int(acme.call("PATCH", path, {"is_enabled": False}).status_code)


@pytest.mark.parametrize("end", [delete, disable])
def test_delivery_that_fails_after_its_endpoint_ended_is_canceled(
    app: Flask, acme: WebhookOrganization, end: EndEndpoint
) -> None:
    with run_receiver(status=500, is_holding=True) as receiver:
        path = f"/endpoints/{acme.create_endpoint(receiver.url)['id']}"
        acme.publish_event()
        delivering = threading.Thread(target=deliver, args=(app,))
        delivering.start()
        wait_until(lambda: len(receiver.received) == 1)
        assert end(acme, path) == 200
        receiver.release()
        delivering.join(20)
        acme.execute("UPDATE webhook_deliveries SET next_at = now() WHERE next_at IS NOT NULL")
        deliver(app)
    assert len(receiver.received) == 1
    assert acme.rows(DELIVERY_STATUSES) == [("canceled",)]
    assert acme.rows("SELECT outcome FROM webhook_attempts") == [("http_error",)]


def test_delivery_of_a_killed_worker_is_canceled_with_its_endpoint(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        path = f"/endpoints/{acme.create_endpoint(receiver.url)['id']}"
        acme.publish_event()
        acme.execute(
            """WITH d AS (UPDATE webhook_deliveries SET status = 'sending', lease_token = gen_random_uuid(),
                attempts = 1, next_at = now() + interval '1 h' RETURNING organization_id, id)
              INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome)
              SELECT organization_id, id, 1, now(), 'started' FROM d"""
        )
        assert delete(acme, path) == 200
        acme.execute("UPDATE webhook_deliveries SET next_at = now() - interval '1 s'")
        deliver(app)
    assert receiver.received == []
    assert acme.rows(DELIVERY_STATUSES) == [("canceled",)]
    assert acme.rows("SELECT outcome FROM webhook_attempts") == [("interrupted",)]
