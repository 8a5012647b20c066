"""Redis dies in the middle of a day's work: nothing is refused, nothing waits long, nothing is lost."""

import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from rq_scheduler import Scheduler

from saas_api.cli.commands import scheduler
from saas_api.cli.dev.engines import Engines
from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.limits import limiter
from tests.support.journeys import make_key, send, sign_up

ONE_SLOW_ANSWER_SECONDS = 0.5


@pytest.fixture
def without_redis(engines: Engines) -> Iterator[Callable[[], None]]:
    """Kill Redis; it is back when the test is over."""

    def kill() -> None:
        assert engines.redis.process is not None
        engines.redis.process.kill()
        engines.redis.process.wait()

    yield kill
    engines.redis.start()
    limiter.get_storage().failures = 0


def test_messages_are_accepted_and_delivered_while_redis_is_dead(
    app: Flask, client: FlaskClient, without_redis: Callable[[], None]
) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    accepted = [send(client, key)]

    without_redis()
    for _ in range(5):
        started = time.perf_counter()
        accepted.append(send(client, key))
        assert time.perf_counter() - started < ONE_SLOW_ANSWER_SECONDS
    assert client.get("/api/v1/auth/me", headers=person).status_code == 200
    assert client.get("/readyz").status_code == 200

    with app.app_context():
        scheduler.run_once(Scheduler(queue_name=BACKGROUND, connection=queue.worker_redis()))

    for message_id in accepted:
        response = client.get(f"/api/v1/messages/{message_id}", headers=key)
        assert response.json["data"]["status"] == "delivered"
    assert client.get("/api/v1/usage", headers=key).json["data"]["summary"]["total_requests"] == len(accepted)
