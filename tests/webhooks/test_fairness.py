"""Many deliveries at once: in-flight limits across workers, and slow or failing endpoints beside others."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from tests.support.accounts import User
from tests.support.http_receiver import run_receiver, wait_until
from tests.support.webhooks import WebhookOrganization, deliver, read_endpoint


def test_in_flight_limit_of_an_endpoint_holds_across_workers(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(seconds=0.05) as receiver:
        acme.create_endpoint(receiver.url)
        acme.execute("UPDATE webhook_endpoints SET max_in_flight = 4, in_flight_limit = 4")
        for _ in range(24):
            acme.publish_event()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: deliver(app), range(3)))
    assert sorted(receiver.ids) == sorted(set(receiver.ids))
    assert len(receiver.received) == 24
    assert 2 <= receiver.most_at_once <= 4


def test_in_flight_limit_grows_with_success_and_is_one_after_a_failure(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        acme.create_endpoint(receiver.url)
        for expected in (2, 4, 8, 10, 10):
            acme.publish_event()
            deliver(app)
            assert read_endpoint(acme).in_flight_limit == expected
        receiver.status = 500
        acme.publish_event()
        deliver(app)
    endpoint = read_endpoint(acme)
    assert (endpoint.in_flight_limit, endpoint.consecutive_failures) == (1, 1)
    assert endpoint.first_failure_at is not None


def test_slow_endpoint_does_not_delay_others(app: Flask, acme: WebhookOrganization) -> None:
    with ThreadPoolExecutor(1) as pool, run_receiver(is_holding=True) as slow, run_receiver() as quick:
        acme.create_endpoint(slow.url)
        acme.create_endpoint(quick.url)
        for _ in range(20):
            acme.publish_event()
        running = pool.submit(deliver, app)
        wait_until(lambda: len(quick.received) == 20)
        acme.execute("UPDATE webhook_deliveries SET next_at = now() + interval '1 h' WHERE status = 'queued'")
        slow.release()
        running.result()
    assert len(slow.received) == 1


def test_failing_endpoints_share_half_of_the_threads(
    app: Flask, acme: WebhookOrganization, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "WEBHOOK_CONCURRENCY", 4)
    other_organization = WebhookOrganization(acme.client, carol)
    with ThreadPoolExecutor(1) as pool, run_receiver(is_holding=True, status=500) as slow, run_receiver() as quick:
        for _ in range(8):
            acme.create_endpoint(slow.url)
        other_organization.create_endpoint(quick.url)
        other_organization.execute("UPDATE webhook_endpoints SET in_flight_limit = 10, last_success_at = now()")
        acme.publish_event()
        running = pool.submit(deliver, app)
        wait_until(lambda: len(slow.received) == 2)
        other_organization.publish_event()
        wait_until(lambda: len(quick.received) == 1)
        slow.release()
        running.result()
    assert len(slow.received) == 8
    assert slow.most_at_once == 2
