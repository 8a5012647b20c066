"""Secrets are replaced while the product serves: the steps of docs/operations.md, each beside the step before it."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from config import Settings
from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.commands import doctor
from saas_api.cli.commands.doctor import OK
from saas_api.core import ids
from saas_api.core.db import engine, roles, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.roles import DatabaseLogins
from saas_api.webhooks import secrets
from tests.architecture.source import ROOT
from tests.support.accounts import User, make_key, sign_in
from tests.support.webhooks import ENDPOINTS, URL

SECRETS = ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")
NEW = {"SECRET_KEY": "t" * 32, "JWT_SECRET": "k" * 32, "API_KEY_PEPPER": "2:" + "q" * 32}


@pytest.fixture
def steps(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Flask]]:
    """The product with the old secrets, with both, with both the other way round, and with the new ones."""
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    old = {name: app.config[name] for name in SECRETS}
    values = (
        {name: f"{old[name]},{NEW[name]}" for name in SECRETS},
        {name: f"{NEW[name]},{old[name]}" for name in SECRETS},
        NEW,
    )
    applications = [create_app({**app.config, **changed}) for changed in values]
    for application in applications:
        cli.init_app(application, "secrets")
    yield [app, *applications]
    for application in applications:
        with application.app_context():
            engine.dispose_connections()


def test_secrets_are_replaced_step_by_step_while_processes_of_two_steps_serve(steps: list[Flask], alice: User) -> None:
    """What a process issues is accepted by those of the step before and after, so restarts may be rolling."""
    organization_id = ids.parse_id("org", alice.organization_id)
    keys, endpoints = [], []
    for pair in itertools.pairwise(steps):
        for issuing in pair:
            user = sign_in(issuing.test_client(), alice.email)
            key = make_key(issuing.test_client(), user)
            created = issuing.test_client().post(ENDPOINTS, json={"url": URL}, headers=user.headers)
            endpoint_id = ids.parse_id("whe", created.json["data"]["id"])
            keys.append(key)
            endpoints.append(endpoint_id)
            for accepting in (*pair, issuing):
                client = accepting.test_client()
                assert client.get("/api/v1/auth/me", headers=user.headers).status_code == 200
                assert client.get("/api/v1/usage", headers=key).status_code == 200
                with accepting.app_context(), tenancy.tenant_session(organization_id) as session:
                    assert len(secrets.list_active_secrets(session, organization_id, endpoint_id)) == 1
        if pair[1] is steps[2]:
            finish_step(steps[2], keys)
    for key in keys:
        assert steps[3].test_client().get("/api/v1/usage", headers=key).status_code == 200
    with steps[3].app_context(), tenancy.tenant_session(organization_id) as session:
        for endpoint_id in endpoints:
            assert len(secrets.list_active_secrets(session, organization_id, endpoint_id)) == 1


def finish_step(application: Flask, keys: list[dict[str, str]]) -> None:
    """Make what is stored independent of the old secrets, until `flask doctor` says that they may go."""
    for key in keys:
        application.test_client().get("/api/v1/usage", headers=key)
    assert application.test_cli_runner().invoke(args=["secrets", "reencrypt"]).exit_code == 0
    with application.app_context():
        findings = [doctor.check_peppers(), doctor.check_secret_key()]
    assert [finding.state for finding in findings] == [OK, OK]
    assert all("may go" in finding.what for finding in findings)


def test_second_login_of_the_database_takes_the_place_of_the_first(
    config: dict[str, Any], app: Flask, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role has one password, so a new login is made beside the old one, and the old one is dropped at the end."""
    statements = roles.cluster_statements(DatabaseLogins("saas", "saas_app_2", "saas"), roles.MAX_POSTGRES)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("; ".join(statements))
    try:
        url = sa.make_url(config["DATABASE_URL"]).set(username="saas_app_2")
        second = sa.create_engine(url, **app.config["SQLALCHEMY_ENGINE_OPTIONS"])
        monkeypatch.setitem(app.config, "APP_ENV", "production")
        with app.app_context():
            tenancy.verify_isolation()
            monkeypatch.setitem(db.engines, None, second)
            tenancy.verify_isolation()
            assert doctor.check_roles().state == OK
        second.dispose()
    finally:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("DROP ROLE saas_app_2")


def test_user_of_redis_has_two_passwords_meanwhile(cache: redis.Redis, config: dict[str, Any]) -> None:
    def can_connect(password: str) -> bool:
        url = config["REDIS_URL"].replace("unix://", f"unix://rotated:{password}@")
        try:
            with redis.Redis.from_url(url) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return False

    cache.execute_command("ACL SETUSER rotated on >old ~* &* +@all")
    try:
        cache.execute_command("ACL SETUSER rotated >new")
        assert (can_connect("old"), can_connect("new")) == (True, True)
        cache.execute_command("ACL SETUSER rotated <old")
        assert (can_connect("old"), can_connect("new")) == (False, True)
    finally:
        cache.execute_command("ACL DELUSER rotated")


def test_every_secret_among_the_settings_has_its_steps_in_the_operations_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## Rotating secrets")[2].partition("\n## ")[0]
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    secret |= {"DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL"}
    assert secret - {*re.findall(r"`([A-Z_]+)`", section)} == set()
