"""`flask backup` and `flask restore`: every committed row is restored elsewhere, and what is not whole is refused."""

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.backups import DATABASE_FILE, MANIFEST_FILE
from saas_api.cli.dev import host
from saas_api.cli.dev.servers import EmbeddedPostgres
from saas_api.settings import instance
from tests.support.accounts import User, make_key
from tests.support.installations import open_directory
from tests.support.messages import send_message


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=[*arguments])


@pytest.fixture
def backup(app: Flask, tmp_path: Path) -> Path:
    """A backup of an installation without users."""
    result = run(app, "backup", str(tmp_path / "backup"))
    assert result.exit_code == 0, result.stderr
    return tmp_path / "backup"


@pytest.fixture
def elsewhere(config: dict[str, Any]) -> Iterator[Flask]:
    """The product on a cluster of its own, with logins and roles and without tables."""
    with open_directory() as directory:
        for name in ("pg", "run", "log"):
            host.make_engine_directory(directory / name, 0o700)
        server = EmbeddedPostgres(directory, directory / "run", is_durable=False)
        server.start()
        urls = {"DATABASE_URL": instance.engine_urls(directory)[0]}
        urls["DATABASE_OWNER_URL"] = instance.owner_database_url(directory)
        application = create_app({**config, **urls})
        cli.init_app(application)
        try:
            yield application
        finally:
            server.stop()


@pytest.mark.long
def test_backup_under_load_is_restored_elsewhere_with_everything_that_was_committed_before(
    app: Flask, client: FlaskClient, elsewhere: Flask, alice: User, cache: redis.Redis, tmp_path: Path
) -> None:
    key = make_key(client, alice)
    before = {send_message(client, key) for _ in range(5)}
    during: list[str] = []
    is_over = threading.Event()

    def send() -> None:
        sender = app.test_client()
        while not is_over.wait(0.03) and len(during) < 40:
            during.append(send_message(sender, key))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        backed_up = run(app, "backup", str(tmp_path / "backup"), "--json")
    finally:
        is_over.set()
        thread.join()
    assert backed_up.exit_code == 0, backed_up.stderr
    rows = json.loads(backed_up.stdout)["rows"]
    assert rows["messages"] == rows["usage_events"] >= len(before)

    restored = run(elsewhere, "restore", str(tmp_path / "backup"))
    assert restored.exit_code == 0, restored.stderr
    cache.flushdb()
    there = elsewhere.test_client()
    for message_id in before:
        assert there.get(f"/api/v1/messages/{message_id}", headers=key).status_code == 200
    checked = run(elsewhere, "billing", "invariants")
    assert checked.exit_code == 0, checked.stdout
    # the cluster counts its transactions from the beginning, and no later usage is overlooked because of that
    send_message(there, key)
    usage = there.get("/api/v1/usage", headers=alice.headers).json
    assert usage["data"]["summary"]["total_requests"] == rows["usage_events"] + 1


def test_database_with_tables_is_not_overwritten(app: Flask, backup: Path) -> None:
    result = run(app, "restore", str(backup))
    assert (result.exit_code, result.stderr) == (
        1,
        "The database saas has tables already; restore into an empty one.\n",
    )


def test_damaged_backup_is_refused(app: Flask, backup: Path) -> None:
    file = backup / DATABASE_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = run(app, "restore", str(backup))
    assert result.exit_code == 1
    assert "database.dump is damaged" in result.stderr


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": "1"}'])
def test_directory_without_a_manifest_is_no_backup(app: Flask, backup: Path, content: str) -> None:
    (backup / MANIFEST_FILE).write_text(content)
    result = run(app, "restore", str(backup))
    assert (result.exit_code, result.stderr.endswith("is no manifest of flask backup.\n")) == (1, True)


def test_missing_backup_is_named(app: Flask, tmp_path: Path) -> None:
    result = run(app, "restore", str(tmp_path / "none"))
    assert (result.exit_code, "none/manifest.json cannot be read" in result.stderr) == (1, True)


def test_existing_directory_is_not_written_to(app: Flask, backup: Path) -> None:
    content = (backup / MANIFEST_FILE).read_text()
    result = run(app, "backup", str(backup))
    assert (result.exit_code, "exists already" in result.stderr) == (1, True)
    assert (backup / MANIFEST_FILE).read_text() == content


def test_backup_is_readable_by_its_owner_only_and_records_itself(app: Flask, backup: Path, superuser: Any) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT target_id, data ->> 'sha256' FROM audit_events WHERE action = 'platform.backed_up'")
        [event] = cursor.fetchall()
    assert event == ("backup", json.loads((backup / MANIFEST_FILE).read_text())["sha256"])


@pytest.fixture
def failing_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File to which a pg_dump that fails writes its arguments."""
    folder, arguments = tmp_path / "bin", tmp_path / "arguments"
    folder.mkdir()
    script = f"""#!/bin/sh
[ "$1" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' && exit 0
echo "$@" > {arguments}
echo 'pg_dump: error: no space left' >&2
exit 1
"""
    (folder / "pg_dump").write_text(script)
    (folder / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return arguments


def test_failed_backup_leaves_nothing_and_shows_no_password(
    app: Flask, config: dict[str, Any], failing_dump: Path, tmp_path: Path
) -> None:
    url = config["DATABASE_OWNER_URL"].replace("saas@", "saas:never-shown@")
    application = create_app({**config, "DATABASE_OWNER_URL": url})
    cli.init_app(application)
    result = run(application, "backup", str(tmp_path / "backup"))
    assert (result.exit_code, result.stderr) == (1, "pg_dump failed: pg_dump: error: no space left\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arguments", "bin"]
    assert "user=saas" in failing_dump.read_text()
    assert "never-shown" not in failing_dump.read_text()
