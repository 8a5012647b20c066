"""Holds: reserved before use, counted by every limit while open, settled once with what was really used."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated

from saas_api.core import ids
from saas_api.metering import holds
from saas_api.webhooks import event_types
from tests.support.accounts import create_key
from tests.support.holds import HOLDS, HoldingOrganization, read_counters
from tests.support.ledger import USAGE_COLUMNS, append_sql
from tests.support.pages import Browser
from tests.support.second_process import WebProcess, web_process
from tests.support.services import create_service, service_headers
from tests.support.statements import count_statements


def test_settled_hold_records_what_was_used(acme: HoldingOrganization) -> None:
    status, hold = acme.request(40, event_id="req-1", endpoint="POST /v1/completions", dimensions={"model": "large"})
    assert status == 201
    assert hold["hold_id"].startswith("hld_")
    assert (hold["status"], hold["meter"], hold["quantity"], hold["key_id"]) == ("open", "sms", 40, acme.key_id)
    assert (hold["organization_id"], hold["dimensions"]) == (acme.owner.organization_id, {"model": "large"})
    settled = acme.settle(hold["hold_id"], 7, properties={"finish": "stop", "cached": True})
    assert (settled["status"], settled["settled_quantity"]) == ("settled", 7)
    assert settled["usage_event_id"].startswith("uev_")
    assert acme.usage() == [("completions", "req-1", 7, "POST /v1/completions")]
    [event] = acme.rows("SELECT properties, api_key_id FROM usage_events")
    assert event.properties == {"model": "large", "finish": "stop", "cached": True}
    assert ids.format_id("key", event.api_key_id) == acme.key_id
    assert acme.show(hold["hold_id"]) == settled


def test_hold_without_an_event_id_settles_under_its_own(acme: HoldingOrganization) -> None:
    hold_id = acme.hold(3)
    acme.settle(hold_id, 3)
    assert acme.usage() == [("completions", f"hold:{hold_id.removeprefix('hld_')}", 3, None)]


def test_usage_beyond_the_hold_is_recorded_even_beyond_the_quota(acme: HoldingOrganization) -> None:
    acme.set_quota(5)
    acme.settle(acme.hold(2), 9)
    assert [quantity for _, _, quantity, _ in acme.usage()] == [9]
    assert acme.refusal() == (429, "QUOTA_EXCEEDED")


def test_hold_for_an_organization_needs_no_key(acme: HoldingOrganization) -> None:
    acme.set_quota(2)
    organization_id = acme.owner.organization_id
    status, hold = acme.request(2, organization_id=organization_id)
    assert (status, hold["key_id"], hold["organization_id"]) == (201, None, organization_id)
    assert acme.refusal(organization_id=organization_id) == (429, "QUOTA_EXCEEDED")
    acme.settle(hold["hold_id"], 1)
    assert acme.rows("SELECT api_key_id FROM usage_events") == [(None,)]


@pytest.mark.parametrize("operation", ["settle", "release", "nothing used"])
def test_ended_hold_gives_back_at_once_what_was_not_used(acme: HoldingOrganization, operation: str) -> None:
    acme.set_quota(5)
    acme.set_cap(5)
    hold_id = acme.hold(5)
    assert acme.refusal() == (429, "QUOTA_EXCEEDED")
    if operation == "release":
        status, data = acme.post(f"/{hold_id}/release", None)
    else:
        status, data = acme.post(f"/{hold_id}/settle", {"quantity": 2 if operation == "settle" else 0})
    used = 2 if operation == "settle" else 0
    assert (status, data["status"]) == (200, "settled" if used else "released")
    assert sum(quantity for _, _, quantity, _ in acme.usage()) == used
    assert acme.refusal(6 - used) == (429, "QUOTA_EXCEEDED")
    acme.hold(5 - used)


def test_repeated_request_gets_the_same_answer_and_any_other_the_state(acme: HoldingOrganization) -> None:
    settled, released = acme.hold(5), acme.hold(5)
    first = acme.settle(settled, "2.5")
    assert acme.settle(settled, "2.50") == first
    _, ended = acme.post(f"/{released}/release", None)
    assert acme.post(f"/{released}/release", None) == (200, ended)
    for path, body, state in (
        (f"/{settled}/settle", {"quantity": 3}, "settled"),
        (f"/{settled}/settle", {"quantity": "2.5", "properties": {"a": "b"}}, "settled"),
        (f"/{settled}/release", None, "settled"),
        (f"/{released}/settle", {"quantity": 0}, "released"),
    ):
        status, error = acme.post(path, body)
        assert (status, error["code"], error["details"]) == (409, "HOLD_ENDED", {"status": state})
    assert len(acme.usage()) == 1


def test_repeated_event_id_is_the_same_hold_and_counts_once(acme: HoldingOrganization) -> None:
    acme.set_quota(3)
    hold_id = acme.hold(2, event_id="req 1")
    assert acme.hold(2, event_id="req 1") == hold_id  # with room for no other
    assert acme.hold(1, event_id="req 1") == hold_id
    acme.hold(1)
    acme.settle(hold_id, 1)
    assert acme.request(2, event_id="req 1")[1]["status"] == "settled"


def test_hold_that_was_committed_before_its_connection_broke_is_the_same_hold(
    app: Flask, acme: HoldingOrganization
) -> None:
    hold_id = acme.hold(2, event_id="req-1")
    with app.app_context():
        stored = holds.get_hold("completions", ids.parse_id("hld", hold_id))
        assert holds._insert(stored).id == stored.id  # the answer to the first try was lost, so it is sent again
    assert acme.rows("SELECT count(*) FROM holds") == [(1,)]


def test_verification_holds_instead_of_recording(acme: HoldingOrganization) -> None:
    acme.set_quota(5)
    question = {"quantity": 4, "hold_seconds": 60, "event_id": "req-1"}
    answer = acme.verify(**question)
    assert (answer["code"], answer["units"]) == ("VALID", 4)
    assert acme.verify(**question)["hold_id"] == acme.hold(4, event_id="req-1") == answer["hold_id"]
    assert acme.verify(quantity=2, hold_seconds=60)["code"] == "QUOTA_EXCEEDED"
    assert acme.usage() == []
    acme.settle(answer["hold_id"], 5)
    assert [(key, quantity) for _, key, quantity, _ in acme.usage()] == [("req-1", 5)]


def test_hold_under_the_id_of_recorded_usage_has_ended(acme: HoldingOrganization) -> None:
    acme.set_quota(2)
    assert acme.verify(quantity=2, event_id="req-1")["code"] == "VALID"
    status, error = acme.request(2, event_id="req-1")
    assert (status, error["code"], error["details"]) == (409, "HOLD_ENDED", {"status": "settled"})


def test_event_with_the_id_of_a_hold_is_its_usage(acme: HoldingOrganization) -> None:
    hold_id = acme.hold(5, event_id="req-1")
    acme.execute(
        append_sql(
            USAGE_COLUMNS,
            """SELECT organization_id, 'completions', 'req-1', 'sms', 4, now(), id, month FROM billing_periods
              WHERE starts_at <= now() AND ends_at > now()""",
        )
    )
    assert acme.settle(hold_id, 3)["settled_quantity"] == 4
    assert [quantity for _, _, quantity, _ in acme.usage()] == [4]


def test_hold_of_another_service_is_not_found(app: Flask, acme: HoldingOrganization) -> None:
    hold_id, other = acme.hold(), service_headers(create_service(app, "other"))
    unknown = ids.format_id("hld", ids.new_id())
    for path, service in ((f"/{hold_id}", other), (f"/{unknown}", acme.service)):
        response = acme.client.get(f"{HOLDS}{path}", headers=service)
        assert (response.status_code, response.json["error"]["code"]) == (404, "HOLD_NOT_FOUND")
        for operation, body in (("settle", {"quantity": 1}), ("release", None)):
            status, error = acme.post(f"{path}/{operation}", body, service)
            assert (status, error["code"]) == (404, "HOLD_NOT_FOUND")


def test_holds_need_a_service_token(acme: HoldingOrganization) -> None:
    for headers in ({}, {"X-API-Key": acme.key}, acme.owner.headers):
        response = acme.client.post(HOLDS, json={"key": acme.key, "meter": "sms", "quantity": 1}, headers=headers)
        assert (response.status_code, response.json["error"]["code"]) == (401, "INVALID_SERVICE_TOKEN")


def test_refused_hold_has_the_code_of_verification(client: FlaskClient, acme: HoldingOrganization) -> None:
    _, narrow = create_key(client, acme.owner, allowed_ips=["203.0.113.0/24"])
    _, slow = create_key(client, acme.owner, rate_limit_per_minute=1)
    _, reader = create_key(client, acme.owner, scopes=["usage:read"])
    slow_key, reading_key = slow["X-API-Key"], reader["X-API-Key"]
    acme.hold(key=slow_key)
    assert acme.refusal(key="sk_live_unknown") == (401, "NOT_FOUND")
    assert acme.refusal(key=reading_key, permission="completions:write") == (403, "INSUFFICIENT_SCOPE")
    assert acme.refusal(key=narrow["X-API-Key"], ip="198.51.100.7") == (403, "IP_NOT_ALLOWED")
    assert acme.refusal(key=slow_key) == (429, "RATE_LIMITED")
    acme.set_cap(2)
    assert acme.refusal(3) == (402, "SPEND_CAP_REACHED")
    acme.set_quota(2)
    assert acme.refusal(2) == (429, "QUOTA_EXCEEDED")
    acme.hold(key=narrow["X-API-Key"], ip="203.0.113.9")


@pytest.mark.parametrize(
    ("standing", "refusal"),
    [("restricted", (402, "SUBSCRIPTION_RESTRICTED")), ("suspended", (403, "ORGANIZATION_SUSPENDED"))],
)
def test_unpaid_invoice_refuses_holds_and_no_settlement(
    acme: HoldingOrganization, superuser: Any, standing: str, refusal: tuple[int, str]
) -> None:
    hold_id = acme.hold(5)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("UPDATE subscriptions SET standing = %s", [standing])
    acme.set_quota(100)  # so that the principal is read again
    assert acme.refusal() == refusal
    assert acme.refusal(organization_id=acme.owner.organization_id) == refusal
    acme.settle(hold_id, 6)
    assert [quantity for _, _, quantity, _ in acme.usage()] == [6]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"meter": "unknown"}, "meter"),
        ({"quantity": "0.0000001"}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": 0}, "quantity"),
        ({"seconds": 9}, "seconds"),
        ({"seconds": 86_401}, "seconds"),
        ({"event_id": "é"}, "event_id"),
        ({"organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90", "key": "sk"}, "key"),
        ({"key": None}, "key"),
    ],
)
def test_request_that_cannot_be_read_names_the_field(
    acme: HoldingOrganization, changes: dict[str, Any], field: str
) -> None:
    status, error = acme.request(**changes)
    assert (status, error["code"]) == (422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in error["details"]["fields"]] == [field]


def test_unknown_organization_is_not_found(acme: HoldingOrganization) -> None:
    assert acme.refusal(organization_id=ids.format_id("org", ids.new_id())) == (404, "NOT_FOUND")


def test_hold_of_a_test_key_counts_nothing_and_is_never_billed(
    client: FlaskClient, acme: HoldingOrganization, cache: redis.Redis
) -> None:
    acme.set_quota(1)
    acme.hold(1)
    _, headers = create_key(client, acme.owner, mode="test")
    before = read_counters(cache)
    hold_id = acme.hold(900, key=headers["X-API-Key"], event_id="t-1")
    settled = acme.settle(hold_id, 800)
    assert (settled["mode"], settled["status"], settled["settled_quantity"]) == ("test", "settled", 800)
    assert acme.usage() == []
    [event] = acme.rows("SELECT id, source, idempotency_key, quantity FROM test_usage_events")
    assert tuple(event) == (ids.parse_id("uev", settled["usage_event_id"]), "completions", "t-1", 800)
    assert read_counters(cache) == before


def test_hold_that_no_limit_concerns_takes_one_round_trip(
    app: Flask, acme: HoldingOrganization, cache: redis.Redis
) -> None:
    assert acme.owner.call("PUT", "/billing/spend-cap", amount=None)[0] == 200
    acme.hold()
    acme.hold()
    cache.config_resetstat()
    with count_statements(app) as statements:
        acme.hold()
    assert statements == []  # the batch that stores the hold has an engine of its own
    assert cache.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


@pytest.mark.parametrize("limit", ["quota", "cap"])
def test_parallel_holds_on_a_balance_for_three_pass_exactly_three(
    acme: HoldingOrganization, patient_redis: None, limit: str
) -> None:
    acme.set_quota(3 if limit == "quota" else 1000)
    acme.set_cap(3 if limit == "cap" else 1000)
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(status for status, _ in pool.map(lambda _: acme.request(), range(20)))
    assert statuses == {201: 3, 429 if limit == "quota" else 402: 17}


def test_parallel_holds_without_redis_pass_exactly_what_is_left(
    acme: HoldingOrganization, config: dict[str, Any], tmp_path: Any
) -> None:
    acme.set_cap(3)
    acme.hold(1)
    without_redis = {"REDIS_URL": f"unix://{tmp_path / 'missing.sock'}"}
    body = {"key": acme.key, "meter": "sms", "quantity": 1}
    with web_process(config, **without_redis) as one, web_process(config, **without_redis) as other:

        def ask_five_times(process: WebProcess) -> list[int]:
            return [process.call("POST", HOLDS, acme.service, body)["status"] for _ in range(5)]

        with ThreadPoolExecutor(2) as pool:
            statuses = [status for answers in pool.map(ask_five_times, (one, other)) for status in answers]
    assert Counter(statuses) == {201: 2, 402: 8}


def test_open_holds_are_counted_after_redis_has_lost_the_counters(
    acme: HoldingOrganization, cache: redis.Redis
) -> None:
    acme.set_quota(5)
    acme.set_cap(4)
    hold_id = acme.hold(3)
    cache.flushall()
    assert acme.refusal(2) == (402, "SPEND_CAP_REACHED")
    acme.settle(hold_id, 2)
    cache.flushall()
    assert acme.refusal(3) == (402, "SPEND_CAP_REACHED")
    acme.hold(2)


def test_open_hold_is_shown_beside_the_spend(app: Flask, acme: HoldingOrganization) -> None:
    browser = Browser(app, acme.owner)
    pages = ("/dashboard", "/dashboard/billing", "/dashboard/billing/spending")
    before = acme.spend_cap()["used"]
    hold_id = acme.hold(500)
    assert acme.spend_cap()["used"] == before
    assert ["$5.00 held" in browser.open(page).text for page in pages] == [True] * 3
    acme.settle(hold_id, 100)
    assert [" USD held" in browser.open(page).text for page in pages] == [False] * 3
    assert Decimal(acme.spend_cap()["used"]) == Decimal(before) + 1


def test_failed_insert_gives_the_units_back(acme: HoldingOrganization, cache: redis.Redis, superuser: Any) -> None:
    acme.set_quota(5)
    acme.hold(1)
    before = read_counters(cache)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("REVOKE INSERT ON holds FROM saas_tenant")
    try:
        assert acme.request(2)[0] >= 500
    finally:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("GRANT INSERT ON holds TO saas_tenant")
    assert read_counters(cache) == before


def test_hold_whose_time_is_over_expires_and_is_reported(acme: HoldingOrganization) -> None:
    acme.owner.call("POST", "/webhooks/endpoints", url="https://a.example/hook")
    acme.set_quota(5)
    hold_id = acme.hold(5, seconds=10)
    acme.pass_time(hold_id)
    status, error = acme.post(f"/{hold_id}/settle", {"quantity": 1})
    assert (status, error["code"], error["details"]) == (409, "HOLD_ENDED", {"status": "expired"})
    assert acme.show(hold_id)["status"] == "expired"
    acme.sweep()
    acme.sweep()
    [event] = acme.rows("SELECT type, payload FROM events")
    payload = json.loads(event.payload)
    Draft202012Validator(event_types.get_type("hold.expired").schema).validate(payload)
    assert (event.type, payload["data"]["hold_id"], payload["data"]["status"]) == ("hold.expired", hold_id, "expired")
    status, error = acme.post(f"/{hold_id}/release", None)
    assert (status, error["code"], error["details"]) == (409, "HOLD_ENDED", {"status": "expired"})
    acme.hold(5)


def test_settlement_that_races_with_the_sweep_and_another_one_ends_the_hold_once(acme: HoldingOrganization) -> None:
    acme.set_quota(100)
    hold_id = acme.hold(5)
    barrier = threading.Barrier(4)

    def settle(quantity: int) -> int:
        barrier.wait()
        return acme.post(f"/{hold_id}/settle", {"quantity": quantity})[0]

    def sweep() -> int:
        barrier.wait()
        acme.sweep()
        return 0

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(settle, quantity) for quantity in (1, 2, 3)]
        pool.submit(sweep)
        assert sorted(call.result() for call in calls) == [200, 409, 409]
    assert len(acme.usage()) == 1
