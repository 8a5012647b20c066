"""The operator console in tests: browsers of operators, and the audit events of their actions."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.accounts.models import Operator
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import PASSWORD, User, sign_up
from tests.support.pages import Browser, set_session_cookies
from tests.support.payments import IsolatedClient

REASON = "ticket 4711: requested by the owner"
IN_BOTH_LOGS = [("Acme", "operator", REASON), ("platform", "operator", REASON)]
"""Audit events of an action on the organization Acme, as `audit_log` returns them."""
IN_PLATFORM_LOG = [("platform", "operator", REASON)]


class Console(Browser):
    """A browser at the console; its requests have a context of their own while a test holds one."""

    def __init__(self, app: Flask, user: User | None = None) -> None:
        super().__init__(app)
        self.client = IsolatedClient(app, app.response_class)
        if user is not None:
            set_session_cookies(self.client, user.token, user.refresh_token)

    def read(self, path: str) -> str:
        """Return the text of a page that opens, without its line breaks."""
        response = self.open(path)
        assert response.status_code == 200, (response.status_code, path)
        return " ".join(response.text.split())

    def submit_action(self, path: str, **fields: Any) -> TestResponse:
        """Submit the form of an action with a reason."""
        return self.submit(path, **{"reason": REASON, **fields})

    def run_action(self, path: str, **fields: Any) -> str:
        """Submit the form of an action and return the text of the page that it redirects to."""
        response = self.submit_action(path, **fields)
        assert response.status_code == 303, (response.status_code, error_summary(response))
        return self.read(response.location)


def open_console(app: Flask, user: User, role: str = "admin") -> Console:
    """Make a user an operator and return their browser."""
    with app.app_context(), tenancy.system_session("operator.command") as session:
        session.merge(Operator(user_id=ids.parse_id("usr", user.user_id), role=role))
    return Console(app, user)


def sign_in_operator(app: Flask, client: FlaskClient, role: str = "admin") -> Console:
    """Sign up an operator with an organization of their own and return their browser."""
    return open_console(app, sign_up(client, f"olga-{role}@platform.example", f"Platform {role}"), role)


def sign_in_without_organization(app: Flask, email: str = "olga@platform.example", role: str = "admin") -> Console:
    """Create an operator who is a member of no organization, and return their browser."""
    result = app.test_cli_runner().invoke(args=["operator", "create", email, "--role", role])
    link = result.output.split("choose a password at ")[1].split()[0]
    browser = Console(app)
    path = link.removeprefix(app.config["APP_URL"])
    assert browser.submit(path, "/reset-password", new_password=PASSWORD).location == "/login"
    response = browser.submit("/login", email=email, password=PASSWORD)
    assert (response.status_code, response.location) == (303, "/admin")
    return browser


def error_summary(response: TestResponse) -> str:
    """Return the errors that a rejected form shows."""
    return " ".join(response.text.partition('class="error-summary"')[2].partition("</div>")[0].split())


def organization_page(user: User) -> str:
    """Return the path of the console page of a user's organization."""
    return f"/admin/organizations/{user.organization_id}"


def audit_log(app: Flask, action: str) -> list[tuple[str, str, str | None]]:
    """Return (log, type of the actor, reason) of each event of an action; log is "platform" or an organization."""
    sql = """SELECT coalesce(o.name, 'platform') AS log, a.actor_type, a.data->>'reason' AS reason
      FROM audit_events a LEFT JOIN organizations o ON o.id = a.organization_id WHERE action = :action ORDER BY a.id"""
    return [tuple(row) for row in execute_sql(app, sql, action=action)]


def execute_sql(app: Flask, sql: str, **values: Any) -> list[Any]:
    """Execute a statement that sees every organization and return its rows, if it has any."""
    with app.app_context(), tenancy.system_session("queue.runs") as session:
        result = session.execute(sa.text(sql), values)
        return list(result.all()) if result.returns_rows else []  # type: ignore[attr-defined]  # a cursor's


def send_message(client: FlaskClient, key: dict[str, str]) -> tuple[int, str]:
    """Send a message and return the status of the response and its error code."""
    body = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
    response = client.post("/api/v1/messages/send", json=body, headers=key)
    return response.status_code, "" if response.json["success"] else response.json["error"]["code"]


def check_operator_access(app: Flask, client: FlaskClient, user: User, pages: Mapping[str, str]) -> None:
    """Check that the sign-in page, 404 or the page is returned to each caller.

    pages: paths with real ids, and the operator role that each requires
    """
    browsers = {
        "anonymous": Console(app),
        "user": Console(app, user),
        "support": sign_in_operator(app, client, "support"),
        "admin": sign_in_operator(app, client, "admin"),
    }
    wrong = []
    for path, role in pages.items():
        for name, browser in browsers.items():
            expected = {"anonymous": 303, "user": 404}.get(name, 200)
            if name == "support" and role == "admin":
                expected = 404
            status = browser.open(path).status_code
            if status != expected:
                wrong.append((name, path, status))
    assert wrong == []
