"""Recovery of the events that an endpoint missed."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from saas_api.core import ids
from tests.support.webhooks import ENDPOINTS, WebhookOrganization

ROOT = Path(__file__).resolve().parents[2]


def ago(**duration: float) -> str:
    return (datetime.now(UTC) - timedelta(**duration)).isoformat()


def recover(acme: WebhookOrganization, endpoint: dict[str, Any], **body: Any) -> int:
    response = acme.call("POST", f"/endpoints/{endpoint['id']}/recover", {"since": ago(hours=1), **body})
    assert response.status_code == 202, response.json
    return int(response.json["data"]["count"])


def invalid_field(acme: WebhookOrganization, endpoint: dict[str, Any], body: dict[str, Any]) -> str:
    response = acme.call("POST", f"/endpoints/{endpoint['id']}/recover", body)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR"), response.json
    return str(response.json["error"]["details"]["fields"][0]["field"])


@pytest.fixture
def endpoint(acme: WebhookOrganization) -> dict[str, Any]:
    """An endpoint with a delivered, a failed, a canceled and a queued delivery, and one event without a delivery."""
    created = acme.create_endpoint(event_types=["invoice.paid"])
    acme.publish_event()
    acme.finish_deliveries("delivered")
    acme.publish_event()
    acme.finish_deliveries("failed")
    acme.publish_event()
    acme.call("PATCH", f"/endpoints/{created['id']}", {"is_enabled": False})
    acme.publish_event()
    acme.publish_event("invoice.voided")
    acme.call("PATCH", f"/endpoints/{created['id']}", {"is_enabled": True})
    acme.publish_event()
    return created


@pytest.mark.parametrize(("only", "count"), [("failed", 2), ("missing", 1), ("all", 3)])
def test_missed_events_are_queued_once(
    acme: WebhookOrganization, endpoint: dict[str, Any], only: str, count: int
) -> None:
    assert recover(acme, endpoint, only=only) == count
    assert recover(acme, endpoint, only=only) == 0
    rows = acme.rows("SELECT event_id, status FROM webhook_deliveries WHERE cause = 'replay'")
    assert len({row.event_id for row in rows}) == count
    assert {row.status for row in rows} == {"queued"}


def test_all_missed_events_are_recovered_by_default(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    assert recover(acme, endpoint) == 3
    acme.finish_deliveries("delivered")
    assert recover(acme, endpoint) == 0


def test_event_that_fails_again_can_be_recovered_again(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    assert recover(acme, endpoint) == 3
    acme.finish_deliveries("failed")
    assert recover(acme, endpoint) == 4


def test_delivery_between_two_attempts_is_due_now_once(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.publish_event()
    acme.execute("UPDATE webhook_deliveries SET attempts = 2, next_at = now() + interval '5 min'")
    assert recover(acme, created, only="missing") == 0
    assert recover(acme, created) == 1
    [row] = acme.rows("SELECT next_at <= now() AS is_due, attempts FROM webhook_deliveries")
    assert (row.is_due, row.attempts) == (True, 2)
    assert recover(acme, created) == 0


def test_events_outside_the_range_are_not_recovered(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    assert recover(acme, endpoint, since=ago(days=2), until=ago(days=1)) == 0
    acme.finish_deliveries("delivered")
    assert recover(acme, endpoint, since=ago(days=29.99)) == 3


def test_test_events_are_not_recovered(acme: WebhookOrganization) -> None:
    created, other = acme.create_endpoint(), acme.create_endpoint()
    acme.call("POST", f"/endpoints/{created['id']}/test", {})
    acme.finish_deliveries("failed")
    assert (recover(acme, created), recover(acme, other)) == (0, 0)


def test_new_endpoint_recovers_events_from_before_its_creation(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event()
    acme.publish_event("message.accepted")
    new = acme.create_endpoint()
    assert recover(acme, new) == 1


def test_concurrent_recoveries_queue_each_event_once(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    barrier, counts = threading.Barrier(6), []

    def send_recovery() -> None:
        client = acme.app.test_client()
        barrier.wait(10)
        path, body = f"{ENDPOINTS}/{endpoint['id']}/recover", {"since": ago(hours=1)}
        response: Any = client.post(path, json=body, headers=acme.owner.headers)
        counts.append(response.json["data"]["count"])

    threads = [threading.Thread(target=send_recovery) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(counts) == [0, 0, 0, 0, 0, 3]


def test_invalid_range_is_rejected_at_its_field(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    assert invalid_field(acme, endpoint, {}) == "since"
    assert invalid_field(acme, endpoint, {"since": "yesterday"}) == "since"
    assert invalid_field(acme, endpoint, {"since": "2026-01-01T00:00:00"}) == "since"
    assert invalid_field(acme, endpoint, {"since": ago(days=31)}) == "since"
    assert invalid_field(acme, endpoint, {"since": ago(days=80), "until": ago(days=49)}) == "since"
    assert invalid_field(acme, endpoint, {"since": ago(hours=1), "until": ago(hours=2)}) == "since"
    assert invalid_field(acme, endpoint, {"since": ago(days=-1)}) == "since"
    assert invalid_field(acme, endpoint, {"since": ago(hours=1), "only": "some"}) == "only"


def test_disabled_endpoint_cannot_be_recovered(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    acme.call("PATCH", f"/endpoints/{endpoint['id']}", {"is_enabled": False})
    response = acme.call("POST", f"/endpoints/{endpoint['id']}/recover", {"since": ago(hours=1)})
    assert (response.status_code, response.json["error"]["code"]) == (409, "ENDPOINT_DISABLED")


def test_recovery_is_in_the_audit_log(acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    recover(acme, endpoint, only="failed")
    [row] = acme.rows("SELECT data FROM audit_events WHERE action = 'webhook_endpoint.recovered'")
    assert (row.data["only"], row.data["deliveries"]) == ("failed", 2)


def command(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["webhooks", *arguments], prog_name="flask")


def test_command_recovers_missed_events(app: Flask, acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    result = command(app, "recover", endpoint["id"], "--since", ago(hours=1), "--json")
    assert (result.exit_code, result.stdout) == (0, '{"count": 3}\n'), result.stderr
    [row] = acme.rows("SELECT actor_type FROM audit_events WHERE action = 'webhook_endpoint.recovered'")
    assert row.actor_type == "system"
    assert len(acme.rows("SELECT FROM webhook_deliveries WHERE cause = 'replay'")) == 3


def test_command_reports_an_error_in_one_line(app: Flask, acme: WebhookOrganization, endpoint: dict[str, Any]) -> None:
    unknown = ids.format_id("whe", ids.new_id())
    messages = {
        command(app, "recover", unknown, "--since", ago(hours=1)).stderr.strip(),
        command(app, "recover", "nonsense", "--since", ago(hours=1)).stderr.strip(),
        command(app, "recover", endpoint["id"], "--since", ago(days=31)).stderr.strip(),
    }
    assert messages == {
        f"There is no endpoint {unknown}; its organization's dashboard lists them.",
        (
            "Invalid value for 'ENDPOINT': 'nonsense' is no id; write whe_ and 32 hex digits, or a UUID. "
            "Look at flask webhooks recover --help."
        ),
        "--since: Must lie at most 30 days before the end. (VALIDATION_ERROR)",
    }
    result = command(app, "recover", endpoint["id"], "--since", "yesterday")
    assert result.exit_code == 2
