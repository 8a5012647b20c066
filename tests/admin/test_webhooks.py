"""Webhooks at the console: backlog, failing endpoints, deliveries; resend, disable, enable."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User
from tests.support.console import (
    IN_BOTH_LOGS,
    REASON,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)
from tests.support.payments import IsolatedClient
from tests.support.webhooks import WebhookOrganization, allowed  # noqa: F401 - a fixture that acts by itself


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: User) -> WebhookOrganization:
    return WebhookOrganization(client, alice)


@pytest.fixture
def failed(app: Flask, acme: WebhookOrganization) -> tuple[str, str]:
    """Paths of the pages of a failing endpoint and of a failed delivery."""
    endpoint = acme.create_endpoint(description="hook")["id"]
    acme.publish_event()
    execute_sql(
        app,
        """UPDATE webhook_deliveries SET status = 'failed', attempts = 9, next_at = NULL, finished_at = now(),
          last_status = 500, error_code = 'http_error'""",
    )
    execute_sql(app, "UPDATE webhook_endpoints SET consecutive_failures = 9, first_failure_at = now() - interval '2 h'")
    execute_sql(
        app,
        """INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, ended_at, status_code,
            duration_ms, outcome)
          SELECT organization_id, id, 9, now(), now(), 500, 42, 'http_error' FROM webhook_deliveries""",
    )
    delivery = execute_sql(app, "SELECT replace(id::text, '-', '') AS id FROM webhook_deliveries")[0].id
    return f"/admin/deliveries/endpoints/{endpoint}", f"/admin/deliveries/whd_{delivery}"


def test_pages_require_an_operator_role(app: Flask, client: FlaskClient, failed: tuple[str, str], carol: User) -> None:
    endpoint, delivery = failed
    reads = {"/admin/deliveries": "support", endpoint: "support", delivery: "support", f"{delivery}/resend": "support"}
    reads[f"{endpoint}/resend"] = "support"
    check_operator_access(app, client, carol, {**reads, f"{endpoint}/disable": "admin", f"{endpoint}/enable": "admin"})


def test_backlog_counts_pending_deliveries_of_each_organization(
    app: Flask, client: FlaskClient, acme: WebhookOrganization
) -> None:
    olga = sign_in_operator(app, client, "support")
    assert "No pending deliveries" in olga.read("/admin/deliveries")
    acme.create_endpoint()
    acme.publish_event()
    acme.publish_event()
    page = olga.read("/admin/deliveries")
    assert 'data-th="Pending" class="num">2<' in page
    assert 'data-th="Due now" class="num">2<' in page


def test_failing_endpoints_are_filtered(
    app: Flask, client: FlaskClient, failed: tuple[str, str], acme: WebhookOrganization
) -> None:
    acme.create_endpoint("http://127.0.0.1:9/healthy")
    page = sign_in_operator(app, client, "support").read("/admin/deliveries?health=failing")
    assert (failed[0] in page, "/healthy" in page) == (True, False)


def test_endpoint_address_is_shown_without_its_query(
    app: Flask, client: FlaskClient, acme: WebhookOrganization
) -> None:
    acme.create_endpoint("http://127.0.0.1:9/hook?token=s3cret")
    assert "s3cret" not in sign_in_operator(app, client).read("/admin/deliveries")


def test_delivery_is_shown_with_attempts_and_found_by_id(
    app: Flask, client: FlaskClient, failed: tuple[str, str]
) -> None:
    olga = sign_in_operator(app, client, "support")
    page = olga.read(failed[1])
    assert ("invoice.paid" in page, "42 ms" in page, "500 Internal Server Error" in page) == (True, True, True)
    response = olga.open(f"/admin/deliveries?delivery={failed[1].rpartition('/')[2]}")
    assert (response.status_code, response.location) == (303, failed[1])


def test_support_resends_a_delivery_with_the_same_event(
    app: Flask, client: FlaskClient, failed: tuple[str, str]
) -> None:
    page = sign_in_operator(app, client, "support").run_action(f"{failed[1]}/resend")
    assert "Event resent" in page
    rows = execute_sql(app, "SELECT event_id, cause, status FROM webhook_deliveries ORDER BY created_at")
    assert (rows[0].event_id == rows[1].event_id, rows[1].cause, rows[1].status) == (True, "replay", "queued")
    assert audit_log(app, "webhook_delivery.resent") == IN_BOTH_LOGS


def test_support_resends_the_picked_deliveries_of_an_endpoint(
    app: Flask, client: FlaskClient, failed: tuple[str, str], acme: WebhookOrganization
) -> None:
    acme.publish_event()
    acme.finish_deliveries("failed")
    olga = sign_in_operator(app, client, "support")
    picks = re.findall(r'name="ids" value="(whd_[0-9a-f]{32})"', olga.read(failed[0]))
    assert len(picks) == 2
    path = f"{failed[0]}/resend"
    assert "No deliveries selected" in olga.read(f"{path}?ids=nonsense&ids=whd_{'0' * 32}")
    fields = {
        **olga.form(f"{path}?{urlencode([('ids', pick) for pick in picks])}", path),
        "reason": REASON,
    }
    assert sorted(fields["ids"]) == sorted(picks)
    responses = [olga.send(path, fields) for _ in range(2)]
    assert [(response.status_code, response.location) for response in responses] == [(303, failed[0])] * 2
    assert "2 deliveries resent." in olga.read(failed[0])
    rows = execute_sql(app, "SELECT event_id FROM webhook_deliveries WHERE cause = 'replay'")
    assert len({row.event_id for row in rows}) == len(rows) == 2
    assert audit_log(app, "webhook_delivery.resent") == IN_BOTH_LOGS * 2
    reasons = execute_sql(app, "SELECT data->>'reason' AS reason FROM audit_events WHERE action LIKE '%.resent'")
    assert {row.reason for row in reasons} == {REASON}


def test_disabling_an_endpoint_cancels_pending_deliveries(
    app: Flask, client: FlaskClient, failed: tuple[str, str], acme: WebhookOrganization
) -> None:
    acme.publish_event()
    olga = sign_in_operator(app, client)
    assert "1 pending delivery" in olga.read(f"{failed[0]}/disable")
    assert "Endpoint disabled." in olga.run_action(f"{failed[0]}/disable")
    assert _statuses(app) == {"failed", "canceled"}
    assert audit_log(app, "webhook_endpoint.changed") == IN_BOTH_LOGS
    response = olga.submit_action(f"{failed[1]}/resend")
    assert (response.status_code, "disabled" in error_summary(response)) == (409, True)
    olga.run_action(f"{failed[0]}/enable")
    assert execute_sql(app, "SELECT status, consecutive_failures FROM webhook_endpoints") == [("enabled", 0)]


def test_endpoints_and_deliveries_download_as_csv(app: Flask, client: FlaskClient, failed: tuple[str, str]) -> None:
    olga = sign_in_operator(app, client)
    rows = olga.open(f"{failed[0]}?status=failed&format=csv&reason=ticket+4711").get_data(as_text=True).splitlines()
    assert (len(rows), ",invoice.paid,auto,failed,9,500,http_error," in rows[1]) == (2, True)
    assert rows[0].lstrip("\ufeff") == (
        "id,event_id,event_type,cause,status,attempt_count,last_status_code,error_code,created_at,finished_at"
    )
    head, row = (
        olga.open("/admin/deliveries?format=csv&reason=ticket+4711")
        .get_data(as_text=True)
        .lstrip("\ufeff")
        .splitlines()
    )
    assert head == (
        "id,organization_id,organization,status,consecutive_failures,first_failure_at,last_success_at,created_at"
    )
    assert row.startswith(f"{failed[0].rpartition('/')[2]},org_")


def test_unknown_ids_are_not_found(app: Flask, client: FlaskClient) -> None:
    olga = sign_in_operator(app, client)
    paths = (f"whd_{'0' * 32}", f"endpoints/whe_{'0' * 32}", "endpoints/x", "nothing")
    assert [olga.open(f"/admin/deliveries/{path}").status_code for path in paths] == [404] * 4


def _statuses(app: Flask) -> set[Any]:
    return {row.status for row in execute_sql(app, "SELECT status FROM webhook_deliveries")}
