"""`flask mail test`: whether mail gets out, without a row in the queue."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.providers import mailbox

TO = "ann@acme.example"


def acts(app: Flask) -> list[str]:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return list(session.scalars(sa.text("SELECT action FROM audit_events")))


@pytest.fixture
def place(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    return tmp_path


def test_without_a_server_the_mail_is_in_the_mailbox(app: Flask, place: Path) -> None:
    done = app.test_cli_runner().invoke(args=["mail", "test", TO])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"the mailbox took the mail to {TO}. See flask mail outbox.\n"
    with app.app_context():
        assert [mail.recipient for mail in mailbox.list_emails()] == [TO]
    assert acts(app) == ["mail.tested"]


def test_a_server_that_is_away_is_told_with_what_to_do(
    app: Flask, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "SMTP_HOST", "127.0.0.1")
    monkeypatch.setitem(app.config, "SMTP_PORT", 1)
    done = app.test_cli_runner().invoke(args=["mail", "test", TO, "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "to": TO,
        "through": "127.0.0.1:1",
        "outcome": "retry",
        "error_code": "provider_unavailable",
    }
    assert "look at the SMTP_ settings" in done.stderr.splitlines()[-1]


def test_what_is_no_address_gets_no_mail(app: Flask, place: Path) -> None:
    assert app.test_cli_runner().invoke(args=["mail", "test", "nobody"]).exit_code == 2
    assert list(place.iterdir()) == []
