"""Probes: /healthz uses no engine, /readyz depends on PostgreSQL alone."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.settings import ROOT
from saas_api.core.web import app as web_app
from saas_api.core.web import http
from saas_api.core.web.app import App
from saas_api.ops.blueprint import bp

NO_REDIS = "redis://127.0.0.1:1/0"
NO_POSTGRESQL = "postgresql+psycopg2://saas@127.0.0.1:1/saas"


@pytest.fixture
def probe_client(config: dict[str, Any]) -> Iterator[FlaskClient]:
    """A client of the probes alone, whose PostgreSQL is unavailable."""
    app = App("probes")
    app.config.update(config, SQLALCHEMY_DATABASE_URI=NO_POSTGRESQL, SQLALCHEMY_ENGINE_OPTIONS=engine.engine_options())
    db.init_app(app)
    http.init_app(app)
    web_app.init_app(app)
    app.register_blueprint(bp)
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


def test_healthz_is_ok_without_engines(probe_client: FlaskClient) -> None:
    probe_client.application.config["REDIS_URL"] = NO_REDIS
    response = probe_client.get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_readyz_is_ok_with_both_engines(client: FlaskClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json == {"status": "ready", "postgresql": "ok", "redis": "ok"}


def test_readyz_is_ok_without_redis(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "REDIS_URL", NO_REDIS)
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json == {"status": "ready", "postgresql": "ok", "redis": "away", "limits_redis": "ok"}


def test_readyz_is_503_without_postgresql(probe_client: FlaskClient) -> None:
    response = probe_client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.json == {"status": "unavailable", "postgresql": "away", "redis": "ok"}


def test_probes_ignore_credentials(client: FlaskClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200


def test_version_names_the_product_and_its_commit(probe_client: FlaskClient) -> None:
    """Small: nothing told which version was running."""
    released = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert probe_client.get("/version").json == {"version": released, "revision": None}
    probe_client.application.config["REVISION"] = "0123abc"
    assert probe_client.get("/version").json == {"version": released, "revision": "0123abc"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["10.1.2.3:8080", "[fd00::7]", "web.internal", "a b"])
def test_probe_is_answered_under_any_host(client: FlaskClient, path: str, host: str) -> None:
    """O8: load balancers and Kubernetes ask an address, and got 400."""
    assert client.get(path, headers={"Host": host}).status_code == 200
    assert client.get("/version", headers={"Host": host}).status_code == 400


def test_product_is_served_under_each_of_its_names(config: dict[str, Any]) -> None:
    client = create_app({**config, "APP_HOSTS": ["api.acme.example"]}).test_client()
    assert client.get("/version", headers={"Host": "api.acme.example"}).status_code == 200
    refused = client.get("/version", headers={"Host": "www.acme.example"})
    assert (refused.status_code, "APP_HOSTS" in refused.text) == (400, True)
