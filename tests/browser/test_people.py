"""Invitations, removal, suspension and impersonation in the browser."""

from collections.abc import Callable

from flask.testing import FlaskClient

from tests.browser.conftest import OpenWindow, use_session
from tests.browser.window import NARROW, WIDE, Window
from tests.support.accounts import PASSWORD, User, make_key
from tests.support.two_factor import Authenticator, shown_codes, shown_secret

NEW = "henry@acme.example"


def test_invited_member_joins_and_is_removed(open_window: OpenWindow, alice: User, work: Callable[[], None]) -> None:
    owner, guest = open_window(has_pointer=False), open_window(java_script_enabled=False)
    use_session(owner, alice)
    owner.open("/dashboard/team")
    owner.follow("Invite a member")
    owner.fill(email=NEW)
    owner.check("Member")
    owner.press("Send invitation")
    owner.sees(NEW)
    owner.inspect()
    work()
    guest.open("/ops/mail")
    guest.page.locator("main tr", has_text=NEW).get_by_role("link").first.click()
    guest.open(str(guest.page.locator('main a[href*="/accept-invitation?"]').first.get_attribute("href")))
    guest.fill(full_name="Henry", password=PASSWORD)
    guest.check_width()
    guest.press("Join")
    guest.page.wait_for_url("**/dashboard**")
    owner.open("/dashboard/team")
    owner.activate(owner.page.locator("main tr", has_text=NEW).get_by_role("link", name="Remove", exact=False))
    owner.fill(typed=NEW)
    owner.press("Remove member")
    owner.page.wait_for_load_state()
    guest.page.goto(f"{guest.url}/dashboard/messages")
    guest.page.wait_for_url("**/login**")


def test_operator_suspends_and_resumes_an_organization(
    operator: Window, open_window: OpenWindow, alice: User, client: FlaskClient
) -> None:
    key = make_key(client, alice)
    message = {"to": "+2348012345678", "type": "sms", "message": "Hello"}

    def status() -> int:
        return client.post("/api/v1/messages/send", json=message, headers=key).status_code

    owner, operator.has_pointer = open_window(), False
    use_session(owner, alice)
    assert status() == 202
    operator.open(f"/admin/organizations/{alice.organization_id}")
    operator.follow("Suspend organization")
    operator.fill(name="Acme", reason="short")
    operator.press("Suspend organization")
    operator.page.locator(".error-summary").wait_for()
    operator.fill(name="Acme", reason="Complaints about unwanted messages, ticket 4711.")
    operator.press("Suspend organization")
    operator.follow("Resume organization")
    assert status() == 403
    owner.open("/dashboard")
    owner.page.locator(".banner", has_text="uspended").wait_for()
    operator.fill(reason="The complaints were settled, ticket 4711.")
    operator.press("Resume organization")
    operator.page.get_by_role("link", name="Suspend").wait_for()
    assert status() == 202
    owner.open("/dashboard")
    assert owner.page.locator(".banner", has_text="uspended").count() == 0
    plain = open_window(java_script_enabled=False)
    plain.context.add_cookies(operator.context.cookies())
    plain.open(f"/admin/organizations/{alice.organization_id}")
    plain.follow("Suspend organization")
    plain.fill(name="Acme", reason="Complaints again, without scripts, ticket 4712.")
    plain.press("Suspend organization")
    plain.sees("Resume organization")
    assert status() == 403


def test_impersonating_operator_cannot_change_anything(operator: Window, alice: User) -> None:
    operator.open(f"/admin/organizations/{alice.organization_id}/view-as")
    operator.fill(reason="The owner asks what the chart means, ticket 12.")
    operator.press("View for 60 minutes")
    operator.page.wait_for_url("**/dashboard**")
    operator.page.get_by_role("button", name="End viewing").wait_for()
    operator.inspect()
    operator.press("End viewing")
    operator.page.wait_for_load_state()
    assert "/admin" in operator.page.url


def test_shortcuts_open_sections_of_the_console_and_of_the_dashboard(operator: Window) -> None:
    """G2: in the console `g s` led to the settings of an organization, and `?` opened nothing."""
    for home, target in (("/admin", "/admin/system"), ("/dashboard", "/dashboard/settings")):
        page = operator.open(home)
        page.keyboard.press("?")
        operator.sees("Keyboard shortcuts", within="#shortcuts")
        operator.inspect()
        page.keyboard.press("Escape")
        page.keyboard.type("gs")
        page.wait_for_url(f"**{target}")
    page = operator.open("/admin")
    page.keyboard.press("Control+k")
    operator.sees("start of an API key", within="#search-all")
    operator.inspect()
    page.keyboard.type("scale")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/search?q=scale")
    operator.follow("Scale")
    page.wait_for_url("**/admin/plans/scale@1")
    operator.follow("Edit plan")
    operator.fill(base_amount="600")
    operator.press("Review and publish")
    operator.sees("scale@1 becomes scale@2")
    operator.inspect()


def test_filters_apply_when_they_change_and_stay_in_the_address(open_window: OpenWindow, alice: User) -> None:
    """G5: dates take precedence, so a named range that is chosen afterwards replaces them."""
    window = open_window()
    use_session(window, alice)
    for address in ("/dashboard/usage", "/dashboard/audit-log"):
        page = window.open(address)
        window.fill(start_date="2026-01-02")
        page.wait_for_url(f"**{address}?*start_date=2026-01-02*")
        assert page.locator('[name="start_date"]').evaluate("(field) => field === document.activeElement")
        assert "end_date" not in page.url
    page.get_by_role("link", name="Last 7 days").click()
    page.wait_for_url("**&end_date=*")
    assert "2026-01-02" not in page.url


def test_pages_in_test_mode_are_accessible(open_window: OpenWindow, alice: User) -> None:
    """G3: every page says whose data it shows while it is scrolled."""
    window = open_window()
    use_session(window, alice)
    window.open("/dashboard")
    window.press("Test")
    for path, words in (("/dashboard", "Test data."), ("/dashboard/billing/spending", "Live data.")):
        window.open(path)
        window.sees(words, within=".test-data")
        for width in (WIDE, NARROW):
            window.size(width)
            window.inspect()


def test_user_turns_on_two_factor_sign_in_and_signs_in_with_a_code_without_javascript(
    open_window: OpenWindow, alice: User
) -> None:
    owner, phone = open_window(has_pointer=False), open_window(java_script_enabled=False)
    use_session(owner, alice)
    owner.open("/dashboard/account")
    owner.follow("Set up two-factor sign-in")
    owner.press("Set up")
    owner.inspect()
    app = Authenticator(shown_secret(owner.page.content()), [])
    owner.fill(code=app.code())
    owner.press("Turn on")
    owner.sees("Save your recovery codes")
    owner.inspect()
    [code, *_] = shown_codes(owner.page.content())
    owner.follow("Done")
    owner.sees("Recovery codes")
    owner.inspect()
    phone.open("/login")
    phone.fill(email=alice.email, password=PASSWORD)
    phone.press("Sign in")
    phone.fill(code=app.code())
    phone.press("Sign in")
    phone.sees("This code is not valid")
    phone.check_width()
    phone.fill(code=code)
    phone.press("Sign in")
    phone.page.wait_for_url("**/dashboard**")
