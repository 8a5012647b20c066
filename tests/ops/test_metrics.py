"""/metrics: what the web has counted and what PostgreSQL knows; for this machine, or with METRICS_TOKEN.

Access: every visitor from this machine gets 200, others 404.
"""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from saas_api.app import create_app
from saas_api.core.db import tenancy
from tests.support.accounts import User, make_key
from tests.support.messages import send_message

TOKEN = "metrics-token-of-the-test"


def read_metrics(client: FlaskClient, **headers: str) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, *map(str, sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_and_refusals_are_counted_by_route_and_code(client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    before = read_metrics(client)
    send_message(client, key)
    assert client.get("/api/v1/messages/msg_unknown", headers=key).status_code == 404
    after = read_metrics(client)

    def growth(*sample: str) -> float:
        return after[sample] - before.get(sample, 0)

    assert growth("saas_http_requests_total", "POST", "/api/v1/messages/send", "202") == 1
    assert growth("saas_http_request_seconds_count", "/api/v1/messages/send") == 1
    assert growth("saas_refusals_total", "NOT_FOUND") == 1
    assert not [sample for sample in after if "msg_unknown" in sample]


def test_methods_that_clients_invent_are_one_series(client: FlaskClient) -> None:
    for number in range(5):
        assert client.open("/version", method=f"WORD{number}").status_code == 405
    methods = {sample[1] for sample in read_metrics(client) if sample[0] == "saas_http_requests_total"}
    assert "other" in methods
    assert not [method for method in methods if method.startswith("WORD")]


def test_backlog_and_deliveries_are_shown(client: FlaskClient, alice: User, work: Callable[[], None]) -> None:
    send_message(client, make_key(client, alice))
    waiting = read_metrics(client)
    assert waiting["saas_outbox_due", "messages"] == 1
    assert waiting["saas_outbox_oldest_due_seconds", "messages"] > 0
    work()
    delivered = read_metrics(client)
    assert delivered["saas_outbox_due", "messages"] == 0
    assert delivered["saas_messages_finished_total", "delivered"] >= 1  # a drain also writes what others have counted
    assert delivered["saas_organizations", "good"] == 1


def test_period_that_was_not_invoiced_is_a_lag(app: Flask, client: FlaskClient, alice: User, superuser: Any) -> None:
    send_message(client, make_key(client, alice))
    assert read_metrics(client)["saas_billing_lag_seconds",] == 0
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            "UPDATE billing_periods SET starts_at = now() - interval '2 h', ends_at = now() - interval '1 h'"
        )
    assert 3600 <= read_metrics(client)["saas_billing_lag_seconds",] < 3700


def test_violation_of_a_check_is_shown(app: Flask, client: FlaskClient) -> None:
    sql = "INSERT INTO invariant_results VALUES ('one', now() - interval '1 d', 3), ('one', now(), 2)"
    with app.app_context(), tenancy.system_session("ops.metrics") as session:
        session.execute(sa.text(sql))
    assert read_metrics(client)["saas_invariant_violations", "one"] == 2


def test_failures_of_a_job_are_counted_since_it_last_succeeded(app: Flask, client: FlaskClient) -> None:
    names = ("ops.purge", "ops.status", "ops.partitions", "usage.roll_up", "removed.job")
    runs = """
    INSERT INTO job_runs (job, scheduled_for, host, state, attempts, next_at, finished_at) VALUES
      ('ops.purge', now() - interval '3 d', 'host', 'failed', 7, NULL, now() - interval '3 d'),
      ('ops.purge', now() - interval '2 d', 'host', 'done', 3, NULL, now() - interval '2 d'),
      ('ops.purge', now() - interval '1 d', 'host', 'failed', 1440, NULL, now() - interval '1 d'),
      ('ops.purge', now(), 'host', 'running', 3, now() + interval '1 min', NULL),
      ('ops.status', now() - interval '1 min', 'host', 'failed', 1, NULL, now()),
      ('ops.status', now(), 'host', 'done', 1, NULL, now()),
      ('ops.partitions', now(), 'host', 'failed', 5, NULL, now()),
      ('removed.job', now(), 'host', 'failed', 5, NULL, now())
    """
    with app.app_context(), tenancy.system_session("ops.metrics") as session:
        session.execute(sa.text(runs))
    metrics = read_metrics(client)
    found = {name: metrics.get(("saas_job_consecutive_failures", name)) for name in names}
    assert found == dict(zip(names, (1442, 0, 5, 0, None), strict=True))
    assert metrics["saas_job_age_seconds", "ops.purge"] >= 2 * 86_400
    assert metrics["saas_job_age_seconds", "ops.status"] < 60
    assert not [job for name, *job in metrics if name == "saas_job_age_seconds" and job[0] not in names[:2]]


def test_scrape_without_postgresql_says_so(config: dict[str, Any]) -> None:
    client = create_app({**config, "DATABASE_URL": "postgresql+psycopg2://saas@127.0.0.1:1/saas"}).test_client()
    metrics = read_metrics(client)
    assert metrics["saas_database_up",] == 0
    assert metrics["saas_redis_up",] == 1


@pytest.mark.parametrize(
    ("token", "address", "headers", "status"),
    [
        (None, "127.0.0.1", {}, 200),
        (None, "::1", {}, 200),
        (None, "10.1.2.3", {}, 404),
        (None, "127.0.0.1", {"X-Forwarded-For": "10.1.2.3"}, 404),
        (TOKEN, "10.1.2.3", {"Authorization": f"Bearer {TOKEN}"}, 200),
        (TOKEN, "10.1.2.3", {"Authorization": "Bearer other"}, 404),
        (TOKEN, "127.0.0.1", {}, 404),
    ],
)
def test_metrics_are_for_this_machine_or_for_the_token(
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    address: str,
    headers: dict[str, str],
    status: int,
) -> None:
    monkeypatch.setitem(client.application.config, "METRICS_TOKEN", token)
    response = client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": address})
    assert response.status_code == status
