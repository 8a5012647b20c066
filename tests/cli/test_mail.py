"""`flask mail test`: sends a mail past the queue."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.providers import mailbox

RECIPIENT = "ann@acme.example"


def audit_actions(app: Flask) -> list[str]:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return list(session.scalars(sa.text("SELECT action FROM audit_events")))


@pytest.fixture
def instance(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    return tmp_path


def test_mail_without_smtp_server_is_in_the_mailbox(app: Flask, instance: Path) -> None:
    result = app.test_cli_runner().invoke(args=["mail", "test", RECIPIENT])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"the mailbox took the mail to {RECIPIENT}. See flask mail outbox.\n"
    with app.app_context():
        assert [mail.recipient for mail in mailbox.list_emails()] == [RECIPIENT]
    assert audit_actions(app) == ["mail.tested"]


def test_unreachable_smtp_server_is_an_error_with_a_hint(
    app: Flask, instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "SMTP_HOST", "127.0.0.1")
    monkeypatch.setitem(app.config, "SMTP_PORT", 1)
    result = app.test_cli_runner().invoke(args=["mail", "test", RECIPIENT, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "to": RECIPIENT,
        "through": "127.0.0.1:1",
        "outcome": "retry",
        "error_code": "provider_unavailable",
    }
    assert "look at the SMTP_ settings" in result.stderr.splitlines()[-1]


def test_invalid_address_gets_no_mail(app: Flask, instance: Path) -> None:
    assert app.test_cli_runner().invoke(args=["mail", "test", "invalid"]).exit_code == 2
    assert list(instance.iterdir()) == []
