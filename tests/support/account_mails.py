"""Account tests: calls of the authentication API, mails and their links, audit events, and expired links."""

import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import AUTH, User

NEW_PASSWORD = "another fine battery"


def error_of(response: Any) -> tuple[int, str]:
    """Return the status and the code of an error response."""
    return response.status_code, response.json["error"]["code"]


def post_auth(client: FlaskClient, path: str, user: User | None = None, ip: str = "127.0.0.1", **body: Any) -> Any:
    """Call the authentication API."""
    headers = user.headers if user else {}
    return client.post(f"{AUTH}{path}", json=body, headers=headers, environ_base={"REMOTE_ADDR": ip})


def execute(superuser: Any, sql: str, *values: Any) -> list[Any]:
    """Execute a statement past every policy and return its rows, if it has any."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


def mail_texts(superuser: Any, template: str, to: str = "alice@acme.example") -> list[str]:
    """Return the texts of the mails of a template to an address, the oldest first."""
    query = "SELECT text_body FROM mails WHERE template = %s AND lower(recipient) = lower(%s) ORDER BY id"
    return [text for (text,) in execute(superuser, query, template, to)]


def mailed_tokens(superuser: Any, template: str, to: str = "alice@acme.example") -> list[str]:
    """Return the tokens of the links in these mails."""
    return [
        match[1] for text in mail_texts(superuser, template, to) if (match := re.search(r"token=([\w-]{43})\b", text))
    ]


def expire_links(superuser: Any, table: str = "user_tokens") -> None:
    """Make every link expire."""
    execute(superuser, f"UPDATE {table} SET expires_at = now() - interval '1 s'")


def audit_events(superuser: Any, action: str) -> list[tuple[str, str | None, str, str, bool]]:
    """Return actor, target and whether an organization's log has the event, the oldest first."""
    query = """SELECT actor_type, actor_id, target_type, target_id, organization_id IS NOT NULL
        FROM audit_events WHERE action = %s ORDER BY id"""
    return execute(superuser, query, action)


def operator_link(app: Flask, email: str) -> str:
    """Create an operator on the command line and return the token that it prints."""
    outcome = app.test_cli_runner().invoke(args=["operator", "create", email])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output.strip().rpartition("?token=")[2]
