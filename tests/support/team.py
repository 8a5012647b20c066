"""Acme and its people, as the tests of teams need them."""

import re
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient

from saas_api.accounts import invitations
from saas_api.accounts.models import Membership, Organization
from saas_api.core import ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy

PASSWORD = "correct horse battery"


@dataclass
class Person:
    """Somebody who is signed in; `id` as on the wire."""

    client: FlaskClient
    id: str
    email: str
    headers: dict[str, str]
    answer: Any = field(default=None, repr=False)

    def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """Status, and the data or the error's code."""
        self.answer = self.client.open(f"/api/v1{path}", method=method, headers=self.headers, json=body or None)
        assert self.answer.json is not None
        return self.answer.status_code, self.answer.json.get("data", self.answer.json.get("error", {}).get("code"))


def sign_up(client: FlaskClient, email: str, organization: str) -> Person:
    names = {"organization_name": organization, "full_name": email.partition("@")[0].title()}
    answer = client.post("/api/v1/auth/register", json={"email": email, "password": PASSWORD, **names})
    assert answer.status_code == 201, answer.json
    data = answer.json["data"]
    return Person(client, data["user"]["id"], email, {"Authorization": f"Bearer {data['token']}"})


def join(owner: Person, email: str, role: str) -> Person:
    """Somebody with a company of their own whom the owner invites, who accepts and signs in there."""
    person = sign_up(owner.client, email, f"{email} Ltd")
    token = invite(owner, email, role)
    with owner.client.application.app_context(), tenancy.system_session("auth.register") as session:
        organization, _ = invitations.accept_invitation(session, token, ids.parse_id("usr", person.id))
    answer = owner.client.post(
        "/api/v1/auth/login",
        json={"email": email, "password": PASSWORD, "organization_id": ids.format_id("org", organization.id)},
    )
    assert answer.status_code == 200, answer.json
    person.headers = {"Authorization": f"Bearer {answer.json['data']['token']}"}
    return person


def invite(inviter: Person, email: str, role: str = "member") -> str:
    """The token in the mail."""
    status, data = inviter.call("POST", "/team/invite", email=email, role=role)
    assert status == 201, data
    return token_of(inviter.client, email)


def token_of(client: FlaskClient, email: str) -> str:
    newest = sa.text(
        "SELECT text_body FROM mails WHERE recipient = :email AND template = 'invitation' ORDER BY id DESC LIMIT 1"
    )
    with client.application.app_context(), tenancy.system_session("mail.due") as session:
        body = session.execute(newest, {"email": email}).scalar_one()
    found = re.search(r"accept-invitation\?token=([\w-]+)", body)
    assert found, body
    return found[1]


def roles(person: Person) -> dict[str, str]:
    _, team = person.call("GET", "/team/members")
    return {member["email"]: member["role"] for member in team["members"]}


def acts(person: Person, **query: str) -> list[Any]:
    answer = person.client.get("/api/v1/organization/audit-log", query_string=query, headers=person.headers)
    assert answer.status_code == 200, answer.json
    entries: list[Any] = answer.json["data"]["entries"]
    return entries


def principal_of(person: Person, role: str = "owner") -> Principal:
    """The person as Acme's services meet them."""
    user_id = ids.parse_id("usr", person.id)
    statement = sa.select(Organization.id).join(Membership, Membership.organization_id == Organization.id)
    statement = statement.where(Membership.user_id == user_id, Organization.name == "Acme")
    with person.client.application.app_context(), tenancy.system_session("auth.profile") as session:
        return Principal(
            "user", user_id, session.execute(statement).scalar_one(), role=role, is_recently_authenticated=True
        )
