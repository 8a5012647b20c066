"""Concurrent changes of an endpoint: they wait for each other in one lock order, without deadlocks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts import organizations
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import outbox
from saas_api.webhooks import claims, events, jobs
from saas_api.webhooks.attempts import AttemptResult
from saas_api.webhooks.claims import Capacity
from saas_api.webhooks.events import EventSubject
from saas_api.webhooks.models import AttemptOutcome
from tests.support.webhooks import WebhookOrganization, read_endpoint


def id_of(endpoint: dict[str, Any]) -> Any:
    return ids.parse_id("whe", endpoint["id"])


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_endpoint_change_waits_for_a_transaction_that_publishes_later(
    app: Flask, acme: WebhookOrganization, method: str
) -> None:
    path, body = f"/endpoints/{acme.create_endpoint()['id']}", {"is_enabled": False} if method == "PATCH" else None
    responses: list[Any] = []

    def change_endpoint() -> None:
        responses.append(app.test_client().open(f"/api/v1/webhooks{path}", method=method, json=body, **credentials))

    credentials = {"headers": acme.owner.headers}
    changing = threading.Thread(target=change_endpoint)
    with app.app_context(), tenancy.tenant_session(acme.id) as session:
        organizations.bump_generation(session, acme.id)
        changing.start()
        time.sleep(0.5)
        events.publish(session, acme.id, "invoice.paid", EventSubject(ids.new_id()), {})
    changing.join(10)
    assert responses[0].status_code == 200
    assert acme.rows("SELECT status FROM webhook_deliveries") == [("canceled",)]


def test_two_endpoints_are_disabled_as_gone_concurrently(
    app: Flask, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = [acme.create_endpoint(), acme.create_endpoint()]
    acme.publish_event()
    publish = events.publish

    def publish_slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        publish(*arguments)

    monkeypatch.setattr(events, "publish", publish_slowly)
    with app.app_context():
        claimed = [
            claims.claim_deliveries((acme.id, id_of(endpoint)), Capacity(1, 1)).deliveries[0] for endpoint in endpoints
        ]

    def record(index: int) -> int:
        delivery = claimed[index]
        with app.app_context():
            return claims.record_results(
                delivery.endpoint, [AttemptResult(delivery, AttemptOutcome.HTTP_ERROR, 1, 410)]
            )

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(record, range(2))) == [0, 0]
    assert {row.status for row in acme.rows("SELECT status FROM webhook_endpoints")} == {"disabled_gone"}
    assert acme.rows("SELECT FROM webhook_deliveries WHERE next_at IS NOT NULL") == []


def test_endpoint_that_recovers_during_the_scan_stays_enabled(app: Flask, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.execute("UPDATE webhook_endpoints SET first_failure_at = now(), last_failure_at = now() + interval '5 d'")
    clock.freeze_time(clock.now() + timedelta(days=5, hours=1))
    disabled: list[Any] = []

    def disable_failing() -> None:
        with app.app_context():
            disabled.append(jobs.disable_failing())

    disabling = threading.Thread(target=disable_failing)
    with app.app_context(), tenancy.tenant_session(acme.id) as session:
        session.execute(text("UPDATE webhook_endpoints SET first_failure_at = NULL, last_success_at = now()"))
        disabling.start()
        time.sleep(0.5)
    disabling.join(10)
    assert disabled == [{"disabled": 0}]
    assert read_endpoint(acme).status == "enabled"


def test_every_due_endpoint_is_scanned_although_others_stay_due(
    app: Flask, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_OWNERS_PER_SCAN", 1)
    endpoint_ids = {id_of(acme.create_endpoint()) for _ in range(2)}
    acme.publish_event()
    acme.execute("UPDATE webhook_deliveries SET next_at = next_at - random() * interval '1 min'")
    with app.app_context():
        assert {endpoint for _ in range(50) for _, endpoint in claims.list_due_endpoints().owners} == endpoint_ids


def test_query_of_an_endpoint_url_is_in_no_event_and_no_mail(app: Flask, acme: WebhookOrganization) -> None:
    created = acme.create_endpoint("http://127.0.0.1:9/hook?token=hidden")
    acme.create_endpoint()
    acme.execute(
        """UPDATE webhook_endpoints SET first_failure_at = now() - interval '6 days', last_failure_at = now()
          WHERE url LIKE '%token%'"""
    )
    with app.app_context():
        assert jobs.disable_failing() == {"disabled": 1}
        with tenancy.system_session("mail.due") as session:
            mails = list(
                session.scalars(text("SELECT text_body || html_body FROM mails WHERE template = 'webhook_disabled'"))
            )
    payloads = [row.payload for row in acme.rows("SELECT payload FROM events WHERE type = 'webhook_endpoint.disabled'")]
    assert len(mails) == len(payloads) == 1
    assert "hidden" not in mails[0] + payloads[0]
    assert acme.call("GET", f"/endpoints/{created['id']}").json["data"]["url"].endswith("?token=hidden")
