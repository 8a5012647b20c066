"""DATABASE_POOLER=pgbouncer: the product behind PgBouncer in transaction mode, with fewer connections than threads."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.dev.engines import Engines
from saas_api.core import metrics
from saas_api.core.db import replica, tenancy
from tests.support.accounts import make_key, sign_up
from tests.support.messages import send_message
from tests.support.pages import Browser
from tests.support.pgbouncer import PROGRAM, pooled_url, running_pgbouncer
from tests.support.queue import run_all_jobs
from tests.support.replicas import running_standby

pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="needs pgbouncer, which .ci/run installs")


@pytest.fixture
def pooled(config: dict[str, Any], app: Flask, engines: Engines) -> Iterator[Flask]:
    """The product behind a PgBouncer that has two connections to the database."""
    with running_pgbouncer(engines) as run:
        application = create_app({**config, "DATABASE_URL": pooled_url(run), "DATABASE_POOLER": "pgbouncer"})
        cli.init_app(application)
        yield application


def test_calls_of_two_organizations_at_once_share_two_connections(pooled: Flask) -> None:
    """O10: PgBouncer refused the options of a connection."""
    with pooled.app_context():
        tenancy.verify_isolation()
    client = pooled.test_client()
    owners = [sign_up(client, f"owner@{name}.example", name) for name in ("acme", "globex")]
    keys = [make_key(client, owner) for owner in owners]

    def send(number: int) -> tuple[int, str]:
        return number % 2, send_message(pooled.test_client(), keys[number % 2])

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, range(24)))
    with pooled.app_context():
        run_all_jobs()
    for index, key in enumerate(keys):
        listed = client.get("/api/v1/messages?limit=100", headers=key).json["data"]["messages"]  # type: ignore[index]
        assert {row["message_id"] for row in listed} == {message for owner, message in sent if owner == index}
        assert {row["status"] for row in listed} == {"delivered"}
        usage = client.get("/api/v1/usage", headers=owners[index].headers).json["data"]  # type: ignore[index]
        assert usage["summary"]["total_requests"] == 12


def test_connection_without_the_settings_of_the_role_is_refused_at_the_start(pooled: Flask, engines: Engines) -> None:
    with contextlib.closing(engines.postgres.superuser("postgres")) as superuser:
        superuser.autocommit = True
        with superuser.cursor() as cursor:
            cursor.execute("ALTER ROLE saas_app IN DATABASE saas RESET role")
    with pooled.app_context(), pytest.raises(tenancy.UnsafeDatabase, match="not saas_tenant"):
        tenancy.verify_isolation()


def test_dashboards_are_read_from_a_replica_behind_the_pooler(
    config: dict[str, Any], app: Flask, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "WAIT_SECONDS", 20)
    reads = metrics.REPLICA_READS.labels("replica")
    with running_standby(engines) as standby, running_pgbouncer(engines, 4, saas_replica=standby.run) as run:
        urls = {"DATABASE_URL": pooled_url(run), "DATABASE_REPLICA_URL": pooled_url(run, "saas_replica")}
        client = create_app({**config, **urls, "DATABASE_POOLER": "pgbouncer"}).test_client()
        owners = [sign_up(client, f"owner@{name}.example", name) for name in ("acme", "globex")]
        for owner in owners:
            Browser(client.application, owner).open("/dashboard/settings")  # which creates what is missing

        def read(number: int) -> bool:
            texts = Browser(client.application, owners[number % 2]).open("/dashboard/settings").text
            return ("acme", "globex")[number % 2] in texts and ("globex", "acme")[number % 2] not in texts

        before = reads._value.get()
        with ThreadPoolExecutor(3) as pool:  # a page has two transactions at a time
            assert all(pool.map(read, range(16)))
        assert reads._value.get() == before + 16
