"""The spend cap: what counts against it, who can set it, and that it blocks calls exactly."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.billing import alerts, periods
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import User, make_key
from tests.support.billing import BillingOrganization
from tests.support.holds import put_on_metered
from tests.support.pages import Browser
from tests.support.second_process import web_process

SEND, CAP, ALERTS = "/api/v1/messages/send", "/api/v1/billing/spend-cap", "/api/v1/billing/alerts"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
MAIL = {"to": "bob@acme.example", "type": "email", "subject": "Hi", "message": "Hello"}
THREE = {**SMS, "message": "x" * 400}
TWO = {**SMS, "message": "x" * 200}


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: User) -> BillingOrganization:
    """Acme on `metered` since the first of the current month, so that every call costs something."""
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    with app.app_context():
        put_on_metered(organization)
    return organization


def base_of(client: FlaskClient, user: User) -> str:
    return str(client.get(ALERTS, headers=user.headers).json["data"]["spend_cap"]["base"])


def cap_for(client: FlaskClient, user: User, cents: int, action: str = "block") -> str:
    """Set a cap that leaves this many cents for usage."""
    base = int(base_of(client, user).replace(".", ""))
    amount = f"{(base + cents) / 100:.2f}"
    response = client.put(CAP, json={"amount": amount, "action": action}, headers=user.headers)
    assert response.status_code == 200, response.json
    return amount


def statuses(client: FlaskClient, key: dict[str, str], *bodies: dict[str, str]) -> list[int]:
    return [client.post(SEND, json=body, headers=key).status_code for body in bodies]


def counters(config: dict[str, Any]) -> dict[str, int]:
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        return {
            name.decode().rpartition(":q:")[2].partition(":")[2]: int(client.get(name) or 0)
            for name in client.scan_iter("*:q:*")
            if not name.endswith(b":over")
        }


def set_limits(organization: BillingOrganization, per_minute: int, ceilings: str = "{}") -> None:
    """Set limit overrides: requests a minute, and quotas by meter."""
    with tenancy.system_session("billing.account") as session:
        session.execute(
            text("""INSERT INTO organization_limits (organization_id, rate_limit_per_minute, ceilings, reason)
              VALUES (:id, :n, CAST(:ceilings AS jsonb), 'test')"""),
            {"id": organization.id, "n": per_minute, "ceilings": ceilings},
        )


def test_cap_with_two_segments_left_rejects_three_and_accepts_two(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    cap = cap_for(client, alice, 100)
    with app.app_context():
        acme.use(98)
    refused = client.post(SEND, json=THREE, headers=key)
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "SPEND_CAP_REACHED")
    spent = f"{(int(cap.replace('.', '')) - 2) / 100:.2f}"
    assert refused.json["error"]["details"] == {"cap": cap, "spent": spent, "currency": "USD"}
    assert statuses(client, key, TWO, MAIL) == [202, 402]
    assert counters(config)["$spend:USD"] == 1_000_000


def test_rejected_call_uses_no_quota(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 2)
    left = int(client.post(SEND, json=SMS, headers=key).headers["X-RateLimit-Remaining"])
    before = counters(config)
    assert statuses(client, key, TWO, TWO, TWO) == [402] * 3
    response = client.post(SEND, json=TWO, headers=key)
    assert int(response.headers["X-RateLimit-Remaining"]) >= left  # one call is added in each 0.1 s
    assert counters(config) == before
    assert statuses(client, key, SMS, SMS) == [202, 402]


def test_cap_for_ten_messages_accepts_ten_of_fifty_concurrent_calls(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, patient_redis: None
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 10)
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda _: app.test_client().post(SEND, json=SMS, headers=key).status_code, range(50)))
    assert Counter(responses) == {202: 10, 402: 40}


def test_cap_is_exact_for_concurrent_calls_beyond_the_included_quantity(
    app: Flask, client: FlaskClient, alice: User, patient_redis: None
) -> None:
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    key = make_key(client, alice)
    with app.app_context(), organization.transaction() as session:
        periods.ensure_account(session, organization.id)
    with app.app_context():
        organization.use(995)
        set_limits(organization, 1000)
    cap_for(client, alice, 10)
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda _: app.test_client().post(SEND, json=SMS, headers=key).status_code, range(50)))
    assert Counter(responses) == {202: 15, 402: 35}


def test_cap_is_exact_for_two_processes(app: Flask, client: FlaskClient, alice: User, config: dict[str, Any]) -> None:
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    key = make_key(client, alice)
    with app.app_context():
        with organization.transaction() as session:
            periods.ensure_account(session, organization.id)
        organization.use(997)
    cap_for(client, alice, 3)
    values = []
    with web_process(config) as process:
        for _ in range(4):
            values += [process.call("POST", SEND, key, SMS)["status"], *statuses(client, key, SMS)]
    assert values == [202] * 6 + [402] * 2


def test_changed_cap_applies_to_the_next_request_in_every_process(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 1)
    with web_process(config) as process:

        def both() -> list[int]:
            return [process.call("POST", SEND, key, TWO)["status"], *statuses(client, key, TWO)]

        assert both() == [402, 402]
        cap_for(client, alice, 4)
        assert both() == [202, 202]
        assert both() == [402, 402]
        assert client.put(CAP, json={"amount": None}, headers=alice.headers).status_code == 200
        assert both() == [202, 202]


def test_alert_only_cap_and_test_mode_block_no_call(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    live, test = make_key(client, alice), make_key(client, alice, mode="test")
    cap_for(client, alice, 0)
    assert statuses(client, live, SMS) == [402]
    assert statuses(client, test, SMS, SMS) == [202, 202]
    cap_for(client, alice, 0, "alert")
    assert statuses(client, live, SMS, SMS) == [202, 202]


def test_cap_blocks_calls_without_redis(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any], tmp_path: Any
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 3)
    with web_process(config, REDIS_URL=f"unix://{tmp_path / 'missing.sock'}") as process:
        responses = [process.call("POST", SEND, key, SMS) for _ in range(5)]
    assert [response["status"] for response in responses] == [202, 202, 202, 402, 402]
    assert responses[3]["json"]["error"]["code"] == "SPEND_CAP_REACHED"


def test_counters_are_restored_from_the_ledger_after_a_loss_in_redis(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 3)
    assert statuses(client, key, TWO) == [202]
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.flushall()
    assert statuses(client, key, TWO, SMS, SMS) == [402, 202, 402]


def test_new_organization_has_the_default_cap(client: FlaskClient, alice: User) -> None:
    cap = client.get(ALERTS, headers=alice.headers).json["data"]["spend_cap"]
    assert cap == {
        "amount": "100.00", "action": "block", "is_default": True, "base": "0.00", "used": "0.00", "currency": "USD",
    }  # fmt: skip


def test_cap_below_the_base_or_the_spend_is_rejected(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    with app.app_context():
        acme.use(101)
    base = int(base_of(client, alice).replace(".", ""))
    reasons = []
    for cents in (base - 1, base + 100, base + 101):
        response = client.put(CAP, json={"amount": f"{cents / 100:.2f}"}, headers=alice.headers)
        reasons.append((response.status_code, response.json.get("error", {}).get("code")))
    assert reasons == [(422, "VALIDATION_ERROR"), (422, "VALIDATION_ERROR"), (200, None)]


@pytest.mark.parametrize("amount", ["-1", "1.001", 5, "", "1e9", "9999999999999"])
def test_invalid_amount_is_rejected(client: FlaskClient, alice: User, amount: Any) -> None:
    assert client.put(CAP, json={"amount": amount}, headers=alice.headers).status_code == 422


def test_cap_change_is_in_the_audit_log_and_forbidden_for_members(client: FlaskClient, alice: User, bob: User) -> None:
    assert client.put(CAP, json={"amount": "5.00"}, headers=bob.headers).status_code == 403
    assert client.put(CAP, json={"amount": "5.00"}, headers=alice.headers).status_code == 200
    log = client.get("/api/v1/organization/audit-log", headers=alice.headers).json["data"]
    assert "spend_cap.changed" in str(log)


def test_high_counter_is_lowered_by_the_second_run_and_a_low_one_at_once(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    cap_for(client, alice, 100)
    assert statuses(client, key, SMS) == [202]
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        name = next(control.scan_iter("*$spend:USD"))
        values = []
        for wrong in (50_000, -10_000):
            control.incrby(name, wrong)
            for _ in range(2):
                with app.app_context():
                    alerts.evaluate_alerts(clock.now())
                values.append(int(control.get(name)))
    assert values == [60_000, 10_000, 10_000, 10_000]


def test_high_quota_counter_is_corrected(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    with app.app_context():
        set_limits(acme, 60, '{"sms": "5"}')
    key = make_key(client, alice)
    assert statuses(client, key, SMS) == [202]
    with redis.Redis.from_url(config["REDIS_URL"]) as control:
        control.incrby(next(control.scan_iter("*:q:*:$quota:sms")), 4_000_000)
    refused = client.post(SEND, json=SMS, headers=key)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "QUOTA_EXCEEDED")
    with app.app_context():
        for _ in range(2):
            alerts.evaluate_alerts(clock.now())
    assert statuses(client, key, SMS) == [202]


def test_accepted_call_needs_one_round_trip_to_redis(
    client: FlaskClient, alice: User, acme: BillingOrganization, config: dict[str, Any]
) -> None:
    key = make_key(client, alice)
    statuses(client, key, SMS, SMS)
    with redis.Redis.from_url(config["REDIS_URL"]) as control:

        def count_evaluations() -> int:
            return int(control.info("commandstats")["cmdstat_evalsha"]["calls"])

        before = count_evaluations()
        assert statuses(client, key, *[TWO] * 5) == [202] * 5
        assert count_evaluations() - before == 5


BANNER = "<strong>The spend cap is reached.</strong>"
REFUSED = "Calls that would exceed it are rejected"


def team_page(app: Flask, user: User) -> str:
    return Browser(app, user).open("/dashboard/team").text


@pytest.mark.usefixtures("acme")
def test_pages_say_that_the_cap_refuses_calls(app: Flask, client: FlaskClient, alice: User) -> None:
    """G1: an organization without endpoints, and a cap that leaves less than the next SMS costs."""
    key = make_key(client, alice)
    cap_for(client, alice, 1)
    assert BANNER not in team_page(app, alice)
    assert statuses(client, key, SMS, SMS) == [202, 402]
    assert f"{BANNER} {REFUSED}" in team_page(app, alice)


def test_raised_cap_is_not_called_reached(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """G1: an organization with an endpoint, whose event spend_cap.reached stays."""
    key = make_key(client, alice)
    with app.app_context(), acme.transaction() as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://acme.example/hook')"),
            {"id": acme.id},
        )
    cap_for(client, alice, 1)
    assert statuses(client, key, SMS, SMS) == [202, 402]
    assert BANNER in team_page(app, alice)
    cap_for(client, alice, 50)
    assert statuses(client, key, SMS) == [202]
    assert BANNER not in team_page(app, alice)


def test_pages_say_that_a_reached_cap_only_notifies(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """G1: the action of the cap decides what the banner says."""
    cap_for(client, alice, 1, "alert")
    assert BANNER not in team_page(app, alice)
    with app.app_context():
        acme.use(1)
    page = team_page(app, alice)
    assert f"{BANNER} Calls are not rejected" in page
    assert REFUSED not in page
