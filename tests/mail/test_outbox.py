"""`flask mail outbox` lists the newest mails of the file mailbox with their links."""

import json
from pathlib import Path

import pytest
from flask import Flask

from tests.support.mail import deliver, enqueue_mail


def outbox(app: Flask, *options: str) -> str:
    outcome = app.test_cli_runner().invoke(args=["mail", "outbox", *options])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_outbox_lists_the_newest_mails_first_with_their_links(app: Flask) -> None:
    enqueue_mail(app, "ann@customer.example")
    enqueue_mail(app, "bob@customer.example", "reset_password")
    deliver(app)
    output = outbox(app)
    assert output.index("bob@customer.example  Choose") < output.index("ann@customer.example  Verify")
    assert f"    {app.config['APP_URL']}/verify-email?token=t0ken-verify\n" in output
    assert "ann@" not in outbox(app, "--limit", "1")


def test_outbox_as_json_is_one_object(app: Flask) -> None:
    enqueue_mail(app, "ann@customer.example")
    enqueue_mail(app, "bob@customer.example")
    deliver(app)
    [mail] = json.loads(outbox(app, "--to", "Ann@customer.example", "--json"))["mails"]
    assert mail["to"] == "ann@customer.example"
    assert mail["links"][0].endswith("/verify-email?token=t0ken-verify")


def test_mailbox_is_created_where_no_instance_directory_exists(app: Flask, instance: Path) -> None:
    """O9: a process that was started without `make run` stores mails, too."""
    instance.rmdir()
    enqueue_mail(app, "ann@customer.example")
    deliver(app)
    assert "ann@customer.example" in outbox(app)


def test_empty_outbox_says_that_there_are_no_mails(app: Flask) -> None:
    assert outbox(app) == "There are no mails.\n"


def test_outbox_fails_when_smtp_is_set(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "SMTP_HOST", "smtp.acme.example")
    outcome = app.test_cli_runner().invoke(args=["mail", "outbox"])
    assert outcome.exit_code == 1
    assert "SMTP_HOST" in outcome.output


def test_mail_that_production_cannot_send_leaves_log_lines(
    app: Flask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """O9: without SMTP and with a directory that cannot be written, the log says both at each attempt."""
    enqueue_mail(app, "ann@customer.example")
    (tmp_path / "mail").touch()
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    deliver(app)
    printed = capsys.readouterr()
    assert {event for event in ("mail_is_not_sent", "mail_not_stored") if event in printed.out + printed.err} == {
        "mail_is_not_sent",
        "mail_not_stored",
    }
