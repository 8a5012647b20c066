"""From the landing page to the first delivered message, by clicking alone."""

import re
from collections.abc import Callable

from tests.browser.conftest import Visits
from tests.browser.visitor import NARROW, Visitor
from tests.support.accounts import PASSWORD

EMAIL = "nora@newcomer.example"


def sign_up(visitor: Visitor) -> None:
    visitor.open("/")
    visitor.page.get_by_role("link", name="Sign up").first.click()
    visitor.fill(organization_name="Newcomer", full_name="Nora", email=EMAIL, password=PASSWORD)
    visitor.press("Create account")
    visitor.sees("First steps")


def verify(visitor: Visitor, work: Callable[[], None]) -> None:
    work()
    letters = visitor.context.new_page()
    letters.goto(f"{visitor.url}/ops/mail")
    letters.get_by_role("link", name=re.compile("erif")).first.click()
    letters.goto(str(letters.locator('main a[href*="/verify-email?"]').first.get_attribute("href")))
    letters.get_by_role("button", name="Verify").click()
    letters.wait_for_load_state()
    letters.close()


def send(visitor: Visitor, text: str) -> None:
    visitor.page.get_by_role("link", name="Messages", exact=True).locator("visible=true").first.click()
    visitor.follow("Send a test message", exact=False)
    visitor.fill(to="+2348012345678", message=text)
    visitor.sees("1 segment")
    visitor.press("Send")


def test_sign_up_leads_to_a_delivered_message(visitor: Visitor, work: Callable[[], None]) -> None:
    sign_up(visitor)
    verify(visitor, work)
    visitor.page.locator("#first-steps .done", has_text="erif").wait_for()
    send(visitor, "Hello from the first test.")
    visitor.sees("Queued")
    work()
    visitor.sees("Delivered")
    visitor.inspect()


def test_sign_up_works_without_javascript_at_320_px_in_dark_mode(visit: Visits, work: Callable[[], None]) -> None:
    visitor = visit(
        java_script_enabled=False, viewport={"width": NARROW, "height": 740}, color_scheme="dark", is_mobile=True
    )
    sign_up(visitor)
    visitor.open("/dashboard/messages/new")
    visitor.fill(to="+2348012345678", message="Hello without scripts.")
    visitor.press("Send")
    work()
    visitor.refresh_until("Delivered")


def test_form_survives_an_ended_session(visitor: Visitor) -> None:
    sign_up(visitor)
    visitor.open("/dashboard/messages/new")
    visitor.fill(to="+2348012345678", message="Typed before the session ended.")
    visitor.sees("1 segment")
    visitor.context.clear_cookies()
    visitor.press("Send")
    visitor.sees("Sign in")
    visitor.fill(email=EMAIL, password=PASSWORD)
    visitor.press("Sign in")
    visitor.sees("Typed before the session ended.")
