"""Redis is killed: messages are still accepted, and delivered."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from rq_scheduler import Scheduler

from saas_api.cli.commands import scheduler
from saas_api.cli.dev.engines import Engines
from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from tests.support.accounts import make_key, sign_up
from tests.support.messages import send_message


@pytest.fixture
def without_redis(engines: Engines) -> Iterator[Callable[[], None]]:
    """A function that kills Redis, which is started again after the test."""

    def kill() -> None:
        assert engines.redis.process is not None
        engines.redis.process.kill()
        engines.redis.process.wait()

    yield kill
    engines.redis.start()


def test_messages_are_accepted_and_delivered_while_redis_is_dead(
    app: Flask, client: FlaskClient, without_redis: Callable[[], None]
) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    accepted = [send_message(client, key)]

    without_redis()
    accepted += [send_message(client, key) for _ in range(5)]
    assert client.get("/api/v1/auth/me", headers=owner.headers).status_code == 200
    assert client.get("/readyz").status_code == 200

    with app.app_context():
        scheduler.run_once(Scheduler(queue_name=BACKGROUND, connection=queue.worker_redis()))

    for message_id in accepted:
        response = client.get(f"/api/v1/messages/{message_id}", headers=key)
        assert response.json["data"]["status"] == "delivered"
    assert client.get("/api/v1/usage", headers=key).json["data"]["summary"]["total_requests"] == len(accepted)
