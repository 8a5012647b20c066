"""Team pages and audit log: members, their permissions, and recorded events."""

import csv
import html
import io
import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from markupsafe import escape

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Invitation, Membership
from saas_api.core import ids
from saas_api.core.access import PERMISSIONS
from saas_api.core.db import tenancy
from saas_api.core.roles import ROLES
from saas_api.dashboard.team import PERMISSION_DESCRIPTIONS
from tests.support.accounts import PASSWORD, User, join, sign_in
from tests.support.pages import Browser, check_access, form_of
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements

TEAM, AUDIT = "/dashboard/team", "/dashboard/audit-log"
DORA = "dora@acme.example"

PAGES = {
    "GET /dashboard/team": "members:read",
    "GET /dashboard/team/invite": "members:write",
    "GET /dashboard/team/members/{bob}/role": "members:promote",
    "GET /dashboard/team/members/{bob}/remove": "members:write",
    "GET /dashboard/team/transfer": "members:promote",
    "GET /dashboard/audit-log": "audit:read",
}


def role_of(app: Flask, user: User) -> str | None:
    organization_id = ids.parse_id("org", user.organization_id)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        membership = session.get(Membership, (organization_id, ids.parse_id("usr", user.user_id)))
        return membership.role if membership else None


def invitations(app: Flask, user: User) -> list[Invitation]:
    """Pending invitations, by address."""
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", user.organization_id)) as session:
        query = session.query(Invitation).filter_by(accepted_at=None, revoked_at=None)
        return list(query.order_by(Invitation.email))


def record_event(app: Flask, user: User, action: str, data: dict[str, Any] | None = None) -> None:
    """Record an audit event of a user."""
    organization_id = ids.parse_id("org", user.organization_id)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        actor = Actor("user", str(ids.parse_id("usr", user.user_id)))
        audit.record_event(session, organization_id, actor, action, ("organization", organization_id), data)


def test_pages_require_their_permission(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    check_access(app, client, alice, {name.format(bob=bob.user_id): permission for name, permission in PAGES.items()})


def test_members_are_not_found_by_another_organization(app: Flask, alice: User, bob: User, carol: User) -> None:
    browser = Browser(app, alice)
    browser.submit(f"{TEAM}/invite", email=DORA)
    page_path = action(browser, "cancel")
    carol_browser = Browser(app, carol)
    for verb in ("role", "remove"):
        assert carol_browser.open(f"{TEAM}/members/{bob.user_id}/{verb}").status_code == 404
    fields = {**carol_browser.form(f"{TEAM}/invite"), "role": "viewer", "typed": bob.email, "user_id": bob.user_id}
    for path in (f"{TEAM}/members/{bob.user_id}/role", f"{TEAM}/members/{bob.user_id}/remove", page_path):
        assert carol_browser.send(path, fields).status_code == 404
    fields["typed"] = "Carol & Co"
    assert carol_browser.send(f"{TEAM}/transfer", fields).status_code == 404
    assert role_of(app, bob) == "member"
    assert len(invitations(app, alice)) == 1


def action(browser: Browser, verb: str) -> str:
    """Action of the only form with that verb on the team page."""
    (path,) = re.findall(rf'<form method="post" action="([^"]+/{verb})"', browser.open(TEAM).text)
    return str(path)


def test_team_lists_members_with_role_and_activity(app: Flask, client: FlaskClient, alice: User) -> None:
    join(app, alice.organization_id, "quiet@acme.example", "viewer")
    text = Browser(app, alice).open(TEAM).text
    assert "2 members" in text
    assert "Viewer" in text
    assert "Not signed in" in text
    assert "Not verified" in text


def test_role_table_has_every_permission(app: Flask, alice: User) -> None:
    assert set(PERMISSION_DESCRIPTIONS) == set(PERMISSIONS)
    text = Browser(app, alice).open(TEAM).text
    table = text[text.index("<caption>Permissions</caption>") :]
    for name, allowed in PERMISSIONS.items():
        if not allowed:
            continue
        row = table[table.index(f">{escape(PERMISSION_DESCRIPTIONS[name])}<") :].partition("</tr>")[0]
        role_names = ", ".join(role for role in ROLES if role in allowed).capitalize()
        assert f"<td>{'Everyone' if len(allowed) == len(ROLES) else role_names}</td>" in row, name


def test_repeated_submit_sends_one_invitation(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    fields = {**browser.form(f"{TEAM}/invite"), "email": DORA, "role": "billing"}
    assert [browser.send(f"{TEAM}/invite", fields).status_code for _ in range(2)] == [303, 303]
    (invitation,) = invitations(app, alice)
    assert (invitation.email, invitation.role) == (DORA, "billing")
    text = browser.open(TEAM).text
    assert DORA in text
    assert f"Invitation sent to {DORA}" in text


def test_rejected_invitation_keeps_its_values(app: Flask, alice: User, bob: User) -> None:
    browser = Browser(app, alice)
    wrong = browser.submit(f"{TEAM}/invite", email="<b>nobody", role="viewer")
    assert wrong.status_code == 422
    rejected_form = form_of(wrong, f"{TEAM}/invite")
    assert (rejected_form["email"], rejected_form["role"]) == (["<b>nobody"], ["viewer"])
    assert 'id="e-email"' in wrong.text
    assert "<b>nobody" not in wrong.text
    known = browser.submit(f"{TEAM}/invite", email=bob.email)
    assert known.status_code == 409
    assert "a member already" in known.text
    assert not invitations(app, alice)


def test_resent_invitation_has_a_new_link(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    browser.submit(f"{TEAM}/invite", email=DORA, role="viewer")
    (before,) = invitations(app, alice)
    page_path = action(browser, "resend")
    fields = browser.form(TEAM, page_path)
    assert browser.send(page_path, fields).status_code == 303
    assert browser.send(page_path, fields).status_code == 303
    (after,) = invitations(app, alice)
    assert (after.email, after.role) == (DORA, "viewer")
    assert after.digest != before.digest


def test_invitation_is_canceled(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    browser.submit(f"{TEAM}/invite", email=DORA)
    page_path = action(browser, "cancel")
    assert browser.submit(TEAM, page_path).status_code == 303
    assert not invitations(app, alice)
    assert browser.send(page_path, form_of(browser.open(TEAM), "/logout")).status_code == 404


def test_role_change_requires_a_recent_password(app: Flask, alice: User, bob: User) -> None:
    browser, path = Browser(app, alice), f"{TEAM}/members/{bob.user_id}/role"
    browser.client.delete_cookie("at")  # the session continues, but is not recently authenticated
    refused = browser.submit(path, role="admin")
    assert refused.status_code == 422
    assert form_of(refused, path)["role"] == ["admin"]
    assert role_of(app, bob) == "member"
    assert browser.submit(path, role="admin", confirm_password=PASSWORD).status_code == 303
    assert role_of(app, bob) == "admin"
    assert browser.submit(path, role="owner").status_code == 422


def test_member_is_removed_after_confirmation(app: Flask, alice: User, bob: User) -> None:
    browser, path = Browser(app, alice), f"{TEAM}/members/{bob.user_id}/remove"
    wrong = browser.submit(path, typed="rob@acme.example")
    assert wrong.status_code == 422
    assert form_of(wrong, path)["typed"] == ["rob@acme.example"]
    assert role_of(app, bob) == "member"
    assert browser.submit(path, typed="BOB@acme.example").status_code == 303
    assert role_of(app, bob) is None
    assert Browser(app, bob).open(TEAM).status_code in (303, 401)


def test_owner_and_oneself_cannot_be_removed(app: Flask, client: FlaskClient, alice: User) -> None:
    join(app, alice.organization_id, "ada@acme.example", "admin")
    ada = sign_in(client, "ada@acme.example")
    browser = Browser(app, ada)
    for user in (ada, alice):
        response = browser.submit(f"{TEAM}/members/{user.user_id}/remove", typed=user.email)
        assert response.status_code == 409
    assert (role_of(app, ada), role_of(app, alice)) == ("admin", "owner")


def test_ownership_is_transferred_after_confirmation(app: Flask, alice: User, bob: User) -> None:
    browser, path = Browser(app, alice), f"{TEAM}/transfer"
    assert browser.submit(path, user_id="", typed="Acme").status_code == 422
    wrong = browser.submit(path, user_id=bob.user_id, typed="Akme")
    assert wrong.status_code == 422
    assert form_of(wrong, path)["user_id"] == [bob.user_id]
    assert role_of(app, alice) == "owner"
    assert browser.submit(path, user_id=bob.user_id, typed="acme").status_code == 303
    assert (role_of(app, alice), role_of(app, bob)) == ("admin", "owner")


def test_lone_owner_is_asked_to_invite_first(app: Flask, alice: User) -> None:
    assert "Invite a member first" in Browser(app, alice).open(f"{TEAM}/transfer").text


def test_audit_log_names_actors_and_escapes_data(app: Flask, alice: User) -> None:
    record_event(app, alice, "organization.changed", {"after": {"name": "<script>alert(1)</script>"}})
    text = Browser(app, alice).open(AUDIT).text
    assert alice.email in text
    assert "organization.changed" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_operators_are_named_as_support(app: Flask, alice: User) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        audit.record_event(session, organization_id, Actor("operator", "olga"), "invoice.voided", ("invoice", "1"))
    text = Browser(app, alice).open(AUDIT).text
    assert f"{app.config['BRAND_NAME']} support" in text
    assert "olga" not in text


def test_audit_log_tells_in_sentences_what_happened(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    browser.submit(f"{TEAM}/invite", email=DORA, role="viewer")
    alice.call("POST", "/keys", name="<Shop>", mode="test")
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", browser.open(AUDIT).text)).split())
    assert f"{alice.email} invited {DORA}" in text
    assert f"{alice.email} created API key <Shop>" in text


def test_audit_log_is_filtered(app: Flask, alice: User) -> None:
    record_event(app, alice, "api_key.revoked")
    record_event(app, alice, "invoice.paid")
    browser = Browser(app, alice)
    assert "<code>api_key.revoked" not in browser.open(f"{AUDIT}?action=invoice").text
    assert "invoice.paid</code>" in browser.open(f"{AUDIT}?action=invoice&actor={alice.user_id}").text
    assert "No entries match" in browser.open(f"{AUDIT}?action=invoice&actor=system").text
    assert "No entries match" in browser.open(f"{AUDIT}?end_date=2020-01-31").text
    for wrong in ("start_date=soon", "actor=unknown", "start_date=2026-03-02&end_date=2026-03-01", "cursor=x"):
        response = browser.open(f"{AUDIT}?{wrong}")
        assert response.status_code == 422, wrong
    rejected_form = browser.open(f"{AUDIT}?start_date=soon&action=api_key").text
    assert 'value="soon"' in rejected_form
    assert 'value="api_key"' in rejected_form


def test_older_entries_are_on_the_next_page(app: Flask, alice: User) -> None:
    for _ in range(30):
        record_event(app, alice, "invoice.paid")
    browser = Browser(app, alice)
    first = browser.open(f"{AUDIT}?action=invoice").text
    older = html.unescape(re.search(r'href="([^"]+)" rel="next"', first)[1])
    assert first.count("<code>invoice.paid</code>") == 25
    assert browser.open(older).text.count("<code>invoice.paid</code>") == 5


def test_csv_applies_filters_and_escapes_formulas(app: Flask, alice: User) -> None:
    record_event(app, alice, "=cmd|' /C calc'!A0")
    record_event(app, alice, "invoice.paid", {"number": "INV-1"})
    browser = Browser(app, alice)
    response = browser.open(f"{AUDIT}?format=csv")
    assert response.mimetype == "text/csv"
    assert response.data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"))))
    assert rows[0]["action"] == "invoice.paid"
    assert rows[0]["actor_id"] == alice.user_id
    assert rows[0]["data"] == '{"number":"INV-1"}'
    assert rows[0]["at"].endswith("Z")
    assert rows[1]["action"] == "'=cmd|' /C calc'!A0"
    filtered = browser.open(f"{AUDIT}?format=csv&action=invoice").data.decode("utf-8-sig")
    assert len(list(csv.DictReader(io.StringIO(filtered)))) == 1
    assert browser.open(f"{AUDIT}?format=csv&actor=unknown").status_code == 422


def test_pages_take_few_statements(app: Flask, alice: User, bob: User) -> None:
    browser = Browser(app, alice)
    browser.submit(f"{TEAM}/invite", email=DORA)
    for name in PAGES:
        path = name.removeprefix("GET ").format(bob=bob.user_id)
        with count_statements(app) as statements:
            assert browser.open(path).status_code == 200
        assert len(statements) <= MAX_PAGE_STATEMENTS, (path, statements)
