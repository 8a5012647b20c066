"""What the tests of links, sessions and joining share: the mails that were written, the log, and what SQL may age."""

import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import AUTH, Person

NEWER = "another fine battery"


def code(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json["error"]["code"]


def post(client: FlaskClient, path: str, person: Person | None = None, ip: str = "127.0.0.1", **body: Any) -> Any:
    """A call to this room."""
    headers = person.headers if person else {}
    return client.post(f"{AUTH}{path}", json=body, headers=headers, environ_base={"REMOTE_ADDR": ip})


def rows(superuser: Any, sql: str, *values: Any) -> list[Any]:
    """What a statement finds."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


def mails(superuser: Any, template: str, to: str = "alice@acme.example") -> list[str]:
    """The texts of a person's mails of a kind, the oldest first."""
    found = "SELECT text_body FROM mails WHERE template = %s AND lower(recipient) = lower(%s) ORDER BY id"
    return [text for (text,) in rows(superuser, found, template, to)]


def tokens(superuser: Any, template: str, to: str = "alice@acme.example") -> list[str]:
    """The tokens in them."""
    return [match[1] for text in mails(superuser, template, to) if (match := re.search(r"token=([\w-]{43})\b", text))]


def expire(superuser: Any, table: str = "user_tokens") -> None:
    """Let every link's time be over."""
    rows(superuser, f"UPDATE {table} SET expires_at = now() - interval '1 s'")


def acts(superuser: Any, action: str) -> list[tuple[str, str | None, str, str, bool]]:
    """Actor, target and whether it is in an organization's log, the oldest first."""
    found = """SELECT actor_type, actor_id, target_type, target_id, organization_id IS NOT NULL
        FROM audit_events WHERE action = %s ORDER BY id"""
    return rows(superuser, found, action)


def operator_link(app: Flask, email: str) -> str:
    """The token a shell prints for a new operator."""
    outcome = app.test_cli_runner().invoke(args=["operator", "create", email])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output.strip().rpartition("?token=")[2]
