"""The probes: alive says nothing about the engines, ready is about PostgreSQL alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.web import app as web_app
from saas_api.core.web import http
from saas_api.core.web.app import App
from saas_api.ops.blueprint import bp

NO_REDIS = "redis://127.0.0.1:1/0"
NO_POSTGRESQL = "postgresql+psycopg2://saas@127.0.0.1:1/saas"


@pytest.fixture
def lonely(config: dict[str, Any]) -> Iterator[FlaskClient]:
    """A client of the probes alone, whose PostgreSQL is away."""
    app = App("probes")
    app.config.update(config, SQLALCHEMY_DATABASE_URI=NO_POSTGRESQL, SQLALCHEMY_ENGINE_OPTIONS=engine.engine_options())
    db.init_app(app)
    http.init_app(app)
    web_app.init_app(app)
    app.register_blueprint(bp)
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


def test_a_living_process_says_so_without_any_engine(lonely: FlaskClient) -> None:
    lonely.application.config["REDIS_URL"] = NO_REDIS
    answer = lonely.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_with_both_engines_it_is_ready(client: FlaskClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "postgresql": "ok", "redis": "ok"}


def test_without_redis_it_is_still_ready(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "REDIS_URL", NO_REDIS)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "postgresql": "ok", "redis": "away"}


def test_without_postgresql_it_is_not_ready(lonely: FlaskClient) -> None:
    answer = lonely.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json == {"status": "unavailable", "postgresql": "away", "redis": "ok"}


def test_probes_mind_no_credentials(client: FlaskClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200
