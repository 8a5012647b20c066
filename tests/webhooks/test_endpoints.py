"""Endpoints over HTTP: creation, changes and deletion, allowed URLs, roles, and the limit of ten."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.webhooks import endpoints, events
from saas_api.webhooks.events import EventSubject
from tests.support.accounts import User, make_key
from tests.support.webhooks import ENDPOINTS, URL, WebhookOrganization


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def test_secret_of_a_new_endpoint_is_shown_once(acme: WebhookOrganization) -> None:
    response = acme.call("POST", "/endpoints", {"url": URL, "event_types": ["invoice.paid"], "description": "Books"})
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    created = response.json["data"]
    assert created["secret"].startswith("whsec_")
    single = acme.call("GET", f"/endpoints/{created['id']}")
    listed = acme.call("GET", "/endpoints")
    assert created["secret"] not in single.text + listed.text
    assert single.json["data"] == listed.json["data"]["endpoints"][0]
    assert single.json["data"] == {
        "id": created["id"],
        "url": URL,
        "mode": "live",
        "description": "Books",
        "event_types": ["invoice.paid"],
        "payload": "full",
        "status": "enabled",
        "is_enabled": True,
        "created_at": created["created_at"],
        "health": {
            "delivered_24h": 0,
            "failed_24h": 0,
            "success_rate_24h": None,
            "average_response_ms": None,
            "p95_response_ms": None,
            "waiting": 0,
            "consecutive_failures": 0,
            "first_failure_at": None,
            "last_success_at": None,
        },
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", ""),
        ("url", None),
        ("url", "ftp://127.0.0.1/x"),
        ("url", "https://user:secret@127.0.0.1/"),
        ("url", "http://10.0.0.1/"),
        ("url", "https://169.254.169.254/latest"),
        ("url", "https://[::ffff:10.0.0.1]/"),
        ("url", "https://0x0a000001/"),
        ("url", "http://example.com/"),
        ("event_types", []),
        ("event_types", ["invoice.eaten"]),
        ("event_types", "invoice.paid"),
        ("description", "x" * 201),
        ("payload", "slim"),
        ("secret", "whsec_mine"),
        ("organization_id", "org_x"),
    ],
)
def test_endpoint_with_an_invalid_field_is_rejected(acme: WebhookOrganization, field: str, value: Any) -> None:
    response = acme.call("POST", "/endpoints", {"url": URL, field: value})
    assert code(response) == (422, "VALIDATION_ERROR")
    assert response.json["error"]["details"]["fields"][0]["field"].split(".")[0] == field
    assert acme.rows("SELECT FROM webhook_endpoints") == []


def test_endpoint_cannot_be_changed_to_a_private_address(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    response = acme.call("PATCH", f"/endpoints/{created['id']}", {"url": "https://192.168.0.1/"})
    assert code(response) == (422, "VALIDATION_ERROR")
    assert acme.call("GET", f"/endpoints/{created['id']}").json["data"]["url"] == URL


def test_update_changes_only_the_given_fields(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint(event_types=["invoice.paid"], description="Books")
    response = acme.call("PATCH", f"/endpoints/{created['id']}", {"event_types": None, "payload": "thin"})
    data = response.json["data"]
    assert (data["event_types"], data["payload"], data["description"]) == (None, "thin", "Books")
    [event] = acme.rows("SELECT data FROM audit_events WHERE action = 'webhook_endpoint.changed'")
    assert event.data == {
        "before": {"event_types": ["invoice.paid"], "payload": "full"},
        "after": {"event_types": None, "payload": "thin"},
    }


def test_disabling_cancels_deliveries_and_enabling_resets_failures(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.publish_event()
    acme.execute("UPDATE webhook_endpoints SET consecutive_failures = 7, first_failure_at = now()")
    response = acme.call("PATCH", f"/endpoints/{created['id']}", {"is_enabled": False})
    assert response.json["data"]["status"] == "disabled_manual"
    acme.publish_event()
    assert [row.status for row in acme.rows("SELECT status FROM webhook_deliveries")] == ["canceled"]
    response = acme.call("PATCH", f"/endpoints/{created['id']}", {"is_enabled": True})
    assert response.json["data"]["is_enabled"]
    assert response.json["data"]["health"]["consecutive_failures"] == 0
    assert response.json["data"]["health"]["first_failure_at"] is None


@pytest.mark.parametrize("status", ["disabled_failing", "disabled_gone"])
def test_automatically_disabled_endpoint_can_be_enabled(acme: WebhookOrganization, status: str) -> None:
    created = acme.create_endpoint()
    acme.execute("UPDATE webhook_endpoints SET status = :status", status=status)
    assert acme.call("PATCH", f"/endpoints/{created['id']}", {"is_enabled": True}).json["data"]["status"] == "enabled"


def test_deleting_cancels_deliveries_and_removes_the_endpoint(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.publish_event()
    assert acme.call("DELETE", f"/endpoints/{created['id']}").status_code == 200
    [delivery] = acme.rows("SELECT status, next_at, finished_at FROM webhook_deliveries")
    assert (delivery.status, delivery.next_at) == ("canceled", None)
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test")):
        response = acme.call(method, f"/endpoints/{created['id']}{path}", {} if method != "GET" else None)
        assert code(response) == (404, "NOT_FOUND"), (method, path)
    assert acme.call("GET", "/endpoints").json["data"]["endpoints"] == []
    acme.publish_event()
    assert len(acme.rows("SELECT FROM webhook_deliveries")) == 1


def test_deletion_waits_for_a_running_publication_and_cancels_it(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    started, done = threading.Event(), threading.Event()
    responses: list[int] = []

    def delete() -> None:
        started.set()
        responses.append(
            acme.app.test_client().delete(f"{ENDPOINTS}/{created['id']}", headers=acme.owner.headers).status_code
        )
        done.set()

    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        events.publish(session, acme.id, "invoice.paid", EventSubject(ids.new_id()), {})
        thread = threading.Thread(target=delete)
        thread.start()
        started.wait(60)
        assert not done.wait(0.5)
    thread.join(60)
    assert responses == [200]
    assert [row.status for row in acme.rows("SELECT status FROM webhook_deliveries")] == ["canceled"]


def test_event_published_during_a_deletion_has_no_delivery(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    thread = threading.Thread(target=acme.publish_event)
    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        by = _principal(acme)
        endpoints.delete(session, by, ids.parse_id("whe", created["id"]))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(60)
    assert acme.rows("SELECT FROM webhook_deliveries") == []


def _principal(acme: WebhookOrganization) -> Any:
    from saas_api.core.access import Principal

    return Principal("user", ids.parse_id("usr", acme.owner.user_id), acme.id, role="owner")


def test_organization_has_at_most_ten_undeleted_endpoints(acme: WebhookOrganization) -> None:
    created = [acme.create_endpoint(f"{URL}/{number}") for number in range(10)]
    assert code(acme.call("POST", "/endpoints", {"url": URL})) == (409, "TOO_MANY_ENDPOINTS")
    acme.call("DELETE", f"/endpoints/{created[0]['id']}")
    acme.create_endpoint()
    page = acme.call("GET", "/endpoints", query_string={"limit": 7}).json["data"]
    rest = acme.call("GET", "/endpoints", query_string={"cursor": page["pagination"]["next_cursor"]}).json["data"]
    assert [len(data["endpoints"]) for data in (page, rest)] == [7, 3]
    assert code(acme.call("GET", "/endpoints", query_string={"cursor": "x"})) == (422, "VALIDATION_ERROR")


def test_limit_of_ten_endpoints_holds_for_concurrent_requests(acme: WebhookOrganization) -> None:
    for number in range(5):
        acme.create_endpoint(f"{URL}/{number}")
    barrier, statuses = threading.Barrier(20), []

    def create() -> None:
        client = acme.app.test_client()
        barrier.wait(10)
        statuses.append(client.post(ENDPOINTS, json={"url": URL}, headers=acme.owner.headers).status_code)

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [201] * 5 + [409] * 15
    assert len(acme.rows("SELECT FROM webhook_endpoints")) == 10


def test_health_has_the_response_times_and_hourly_success_of_a_day(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    for hours_ago, status in ((0, "delivered"), (0, "failed"), (5, "failed"), (30, "failed")):
        acme.publish_event()
        acme.execute(
            """UPDATE webhook_deliveries SET status = :status, next_at = NULL, finished_at = now(),
                created_at = now() - make_interval(hours => :hours) WHERE status = 'queued'""",
            status=status,
            hours=hours_ago,
        )
    acme.execute(
        """INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome, duration_ms)
          SELECT organization_id, id, n, now(), 'ok', CASE WHEN created_at < now() - interval '24 h' THEN 9000
            ELSE 10 * n END FROM webhook_deliveries, generate_series(1, 20) n"""
    )
    health = acme.call("GET", f"/endpoints/{created['id']}").json["data"]["health"]
    assert (health["delivered_24h"], health["failed_24h"], health["success_rate_24h"]) == (1, 2, 33.3)
    assert (health["average_response_ms"], health["p95_response_ms"]) == (105, 190)
    with acme.transaction() as session:
        endpoint = endpoints.get_endpoint(session, acme.id, ids.parse_id("whe", created["id"]))
        [view] = endpoints.list_endpoint_views(session, acme.id, [endpoint])
    rates = [hour.success_rate for hour in view.health.hours]
    assert (len(rates), rates[-1], rates[-6], rates.count(None)) == (24, 50.0, 0.0, 22)


def test_objects_of_another_organization_are_not_found(
    acme: WebhookOrganization, app: Flask, client: FlaskClient, carol: User
) -> None:
    other = WebhookOrganization(client, carol)
    created = other.create_endpoint()
    other.publish_event()
    [delivery] = other.rows("SELECT id, event_id FROM webhook_deliveries")
    whd, evt = ids.format_id("whd", delivery.id), ids.format_id("evt", delivery.event_id)
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/endpoints/{created['id']}", None),
        ("PATCH", f"/endpoints/{created['id']}", {"description": "mine"}),
        ("DELETE", f"/endpoints/{created['id']}", None),
        ("POST", f"/endpoints/{created['id']}/rotate-secret", {}),
        ("POST", f"/endpoints/{created['id']}/test", {}),
        (
            "POST",
            f"/endpoints/{created['id']}/recover",
            {"since": clock.format_rfc3339(clock.now() - timedelta(hours=1))},
        ),
        ("GET", f"/endpoints/{created['id']}/deliveries", None),
        ("GET", f"/deliveries/{whd}", None),
        ("POST", f"/deliveries/{whd}/resend", None),
        ("POST", f"/events/{evt}/replay", None),
    ]
    for method, path, body in calls:
        assert code(acme.call(method, path, body)) == (404, "NOT_FOUND"), (method, path)
    assert acme.call("GET", "/events").json["data"]["events"] == []
    assert acme.call("GET", "/endpoints").json["data"]["endpoints"] == []


def test_member_reads_deliveries_but_cannot_manage_endpoints(
    acme: WebhookOrganization, bob: User, client: FlaskClient
) -> None:
    created = acme.create_endpoint()
    for method, path in (("GET", "/endpoints"), ("GET", f"/endpoints/{created['id']}"), ("POST", "/endpoints")):
        body = {"url": URL} if method == "POST" else None
        assert code(acme.call(method, path, body, headers=bob.headers)) == (403, "PERMISSION_DENIED")
    for path in (f"/endpoints/{created['id']}/deliveries", "/events", "/event-types"):
        assert acme.call("GET", path, headers=bob.headers).status_code == 200
    key = make_key(client, acme.owner)
    assert acme.call("GET", "/endpoints", headers=key).status_code in (401, 403)


def test_audit_log_has_every_change_and_no_secret(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint(f"{URL}?token=hidden")
    acme.call("PATCH", f"/endpoints/{created['id']}", {"description": "Books"})
    acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {})
    acme.call("POST", f"/endpoints/{created['id']}/test", {})
    acme.call("DELETE", f"/endpoints/{created['id']}")
    audit_events = acme.rows(
        "SELECT action, data::text FROM audit_events WHERE target_type = 'webhook_endpoint' ORDER BY id"
    )
    verbs = {row.action.partition(".")[2] for row in audit_events}
    assert verbs == {"created", "changed", "secret_rotated", "tested", "deleted"}
    data = " ".join(row.data for row in audit_events)
    assert "whsec_" not in data
    assert "hidden" not in data
