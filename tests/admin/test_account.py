"""The account of an operator who is a member of no organization, and the way from every page to the console."""

import pytest
from flask import Flask

from tests.support.accounts import PASSWORD
from tests.support.console import Console, sign_in_without_organization
from tests.support.pages import form_of

ACCOUNT, CONSOLE = "/dashboard/account", 'href="/admin"'


@pytest.fixture
def olga(app: Flask) -> Console:
    """The browser of an operator without an organization."""
    return sign_in_without_organization(app)


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/settings", "/dashboard/messages/new"])
def test_pages_of_an_organization_lead_to_the_console(olga: Console, path: str) -> None:
    """G2: they answered 403 with a link to the next 403."""
    response = olga.open(path)
    assert (response.status_code, response.location) == (303, "/admin")


@pytest.mark.parametrize("path", ["/", "/pricing", "/status", "/logout"])
def test_public_pages_link_to_the_console(olga: Console, path: str) -> None:
    """G2: their header said "Dashboard", which she may not open."""
    page = olga.read(path)
    assert CONSOLE in page
    assert 'href="/dashboard"' not in page


def test_error_page_links_to_the_console(olga: Console) -> None:
    """G2: as the public pages."""
    response = olga.open("/admin/users/usr_018f3c6a9d2e7a018b4c5d6e7f80aa01")
    assert response.status_code == 404
    assert CONSOLE in response.text
    assert 'href="/dashboard"' not in response.text


def test_account_page_stands_in_the_console(olga: Console) -> None:
    """G2: it was redirected to the sign-in page and back without an end."""
    page = olga.read(ACCOUNT)
    assert "olga@platform.example" in page
    assert "This session" in page
    assert 'aria-label="Operator console"' in page
    assert f'href="{ACCOUNT}"' in olga.read("/admin")
    assert olga.open("/login?next=/dashboard/account").location == ACCOUNT


def test_operator_changes_name_theme_and_password(app: Flask, olga: Console) -> None:
    """G2: every form of the account works without an organization."""
    assert olga.submit(ACCOUNT, full_name="Olga Operator").location == ACCOUNT
    assert 'value="Olga Operator"' in olga.read(ACCOUNT)
    fields = {**form_of(olga.open(ACCOUNT), ACCOUNT), "theme": "dark", "back": ACCOUNT}
    assert (
        olga.send("/preferences", {name: fields[name] for name in ("csrf_token", "theme", "back")}).status_code == 303
    )
    assert 'data-theme="dark"' in olga.read("/admin")
    password = f"{ACCOUNT}/password"
    rejected = olga.submit(password, current_password="wrong", new_password="another correct horse battery")
    assert rejected.status_code == 401
    changed = olga.submit(password, current_password=PASSWORD, new_password="another correct horse battery")
    assert changed.location == ACCOUNT
    assert olga.open("/admin").status_code == 200


def test_operator_ends_other_sessions(app: Flask, olga: Console) -> None:
    """G2: a session that was left open elsewhere."""
    other = Console(app)
    other.submit("/login", email="olga@platform.example", password=PASSWORD)
    assert olga.submit(ACCOUNT, f"{ACCOUNT}/sessions/end-others").location == ACCOUNT
    assert "/login" in other.open("/admin").location
    assert olga.open("/admin").status_code == 200


def test_console_names_its_shortcuts(olga: Console) -> None:
    """G2: `g s` led to the settings of an organization, and `?` opened nothing."""
    page = olga.read("/admin")
    assert '<dialog class="dialog" id="shortcuts"' in page
    assert '<a href="/admin/system" data-shortcut="s">' in page
    assert "<div><dt><kbd>g s</kbd></dt><dd>System</dd></div>" in page
