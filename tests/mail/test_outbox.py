"""`flask mail outbox`: the links of the last mails, for a shell."""

import json

import pytest
from flask import Flask

from tests.support import mail as post


def outbox(app: Flask, *options: str) -> str:
    outcome = app.test_cli_runner().invoke(args=["mail", "outbox", *options])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_it_shows_the_newest_first_with_their_links(app: Flask) -> None:
    post.write(app, "ann@customer.example")
    post.write(app, "bob@customer.example", "reset_password")
    post.turn(app)
    shown = outbox(app)
    assert shown.index("bob@customer.example  Choose") < shown.index("ann@customer.example  Verify")
    assert f"    {app.config['APP_URL']}/verify-email?token=t0ken-verify\n" in shown
    assert "ann@" not in outbox(app, "--limit", "1")


def test_as_json_it_is_one_object(app: Flask) -> None:
    post.write(app, "ann@customer.example")
    post.write(app, "bob@customer.example")
    post.turn(app)
    [mail] = json.loads(outbox(app, "--to", "Ann@customer.example", "--json"))["mails"]
    assert mail["to"] == "ann@customer.example"
    assert mail["links"][0].endswith("/verify-email?token=t0ken-verify")


def test_an_empty_one_says_so(app: Flask) -> None:
    assert outbox(app) == "There are no mails.\n"


def test_with_smtp_there_is_none(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "SMTP_HOST", "smtp.acme.example")
    outcome = app.test_cli_runner().invoke(args=["mail", "outbox"])
    assert outcome.exit_code == 1
    assert "SMTP_HOST" in outcome.output
