"""An operator at the console: signs in with a fresh password, and says why."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.accounts import operators, users
from saas_api.core.db import tenancy
from tests.support.accounts import Person, sign_up
from tests.support.pages import Browser
from tests.support.payments import Visitor

REASON = "ticket 4711: asked by phone"
BOTH = [(True, "operator", REASON), (False, "operator", REASON)]
"""An act on an organization is in its log and in the operators'."""
PLATFORM = [(False, "operator", REASON)]


class Console(Browser):
    """A browser of an operator, whose requests begin afresh even while a test holds a context of its own."""

    def __init__(self, app: Flask, person: Person | None = None) -> None:
        super().__init__(app)
        self.client = Visitor(app, app.response_class)
        if person is not None:
            self.client.set_cookie("at", person.token)
            self.client.set_cookie("rt", person.refresh_token)

    def text(self, path: str) -> str:
        """A page that opens, without its line breaks."""
        answer = self.open(path)
        assert answer.status_code == 200, (answer.status_code, path)
        return " ".join(answer.text.split())

    def act(self, path: str, **changes: Any) -> TestResponse:
        """Fill in the form of a page, with a reason, and send it."""
        return self.submit(path, **{"reason": REASON, **changes})

    def does(self, path: str, **changes: Any) -> str:
        """Do something, and read the page that shows the result."""
        answer = self.act(path, **changes)
        assert answer.status_code == 303, (answer.status_code, problem(answer))
        return self.text(answer.location)


def problem(answer: TestResponse) -> str:
    """What a refused form says is wrong."""
    return " ".join(answer.text.partition('class="error-summary"')[2].partition("</div>")[0].split())


def appoint(app: Flask, client: FlaskClient, office: str = "admin") -> Person:
    """An operator, who has a company of her own like everybody."""
    person = sign_up(client, f"olga-{office}@platform.example", f"Platform {office}")
    with app.app_context(), tenancy.system_session("auth.register") as session:
        found = users.find_by_email(session, person.email)
        assert found is not None
        operators.grant_operator_role(session, found.id, office)
    return person


def console(app: Flask, client: FlaskClient, office: str = "admin") -> Console:
    """The console with an operator before it."""
    return Console(app, appoint(app, client, office))


def log(app: Flask, action: str) -> list[tuple[bool, str, str | None]]:
    """What was recorded of an act: whether for an organization, by which kind of actor, and why."""
    statement = sa.text("""SELECT organization_id IS NOT NULL AS own, actor_type, data->>'reason' AS reason
      FROM audit_events WHERE action = :action ORDER BY id""")
    with app.app_context(), tenancy.system_session("queue.runs") as session:
        return [(row.own, row.actor_type, row.reason) for row in session.execute(statement, {"action": action})]


def run(app: Flask, sql: str, **values: Any) -> list[Any]:
    """What the whole platform has, or a change to it."""
    with app.app_context(), tenancy.system_session("queue.runs") as session:
        result = session.execute(sa.text(sql), values)
        return list(result.all()) if result.returns_rows else []  # type: ignore[attr-defined]  # a cursor's


def check_offices(app: Flask, client: FlaskClient, stranger: Person, pages: Mapping[str, str]) -> None:
    """Every page of the console: nobody is led to the door, a customer and too low an office find nothing.

    pages: paths with real ids, and the office each asks for
    """
    callers = {
        "nobody": Console(app),
        "customer": Console(app, stranger),
        "support": console(app, client, "support"),
        "admin": console(app, client, "admin"),
    }
    wrong = []
    for path, office in pages.items():
        for name, browser in callers.items():
            expected = {"nobody": 303, "customer": 404}.get(name, 200)
            if name == "support" and office == "admin":
                expected = 404
            got = browser.open(path).status_code
            if got != expected:
                wrong.append((name, path, got))
    assert wrong == []
