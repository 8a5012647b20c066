"""The team of an organization through the API: invitations, members and audit events."""

import re
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from tests.support.accounts import User


def invite(inviter: User, email: str, role: str = "member") -> str:
    """Invite an address and return the token of the mailed link."""
    status, data = inviter.call("POST", "/team/invite", email=email, role=role)
    assert status == 201, data
    return invitation_token(inviter.client, email)


def invitation_token(client: FlaskClient, email: str) -> str:
    """Return the token of the newest invitation mailed to an address."""
    newest = sa.text(
        "SELECT text_body FROM mails WHERE recipient = :email AND template = 'invitation' ORDER BY id DESC LIMIT 1"
    )
    with client.application.app_context(), tenancy.system_session("mail.due") as session:
        body = session.execute(newest, {"email": email}).scalar_one()
    match = re.search(r"accept-invitation\?token=([\w-]+)", body)
    assert match, body
    return match[1]


def member_roles(user: User) -> dict[str, str]:
    """Return the role of each member by email address."""
    _, team = user.call("GET", "/team/members")
    return {member["email"]: member["role"] for member in team["members"]}


def audit_events(user: User, **query: str) -> list[Any]:
    """Return the audit events of the user's organization, the newest first."""
    response = user.client.get("/api/v1/organization/audit-log", query_string=query, headers=user.headers)
    assert response.status_code == 200, response.json
    entries: list[Any] = response.json["data"]["entries"]
    return entries


def principal_of(user: User, role: str = "owner") -> Principal:
    """Return the recently authenticated principal of a user, for calls of services."""
    user_id, organization_id = ids.parse_id("usr", user.user_id), ids.parse_id("org", user.organization_id)
    return Principal("user", user_id, organization_id, role=role, is_recently_authenticated=True)
