"""From the landing page to the first delivered message in the browser."""

import re
from collections.abc import Callable

from tests.browser.conftest import OpenWindow
from tests.browser.window import NARROW, Window
from tests.support.accounts import PASSWORD

EMAIL = "nora@newcomer.example"


def sign_up(window: Window) -> None:
    window.open("/")
    window.activate(window.page.get_by_role("link", name="Sign up").first)
    window.fill(organization_name="Newcomer", full_name="Nora", email=EMAIL, password=PASSWORD)
    window.press("Create account")
    window.sees("Get started")


def verify(window: Window, work: Callable[[], None]) -> None:
    work()
    mailbox = window.context.new_page()
    mailbox.goto(f"{window.url}/ops/mail")
    mailbox.get_by_role("link", name=re.compile("erif")).first.click()
    mailbox.goto(str(mailbox.locator('main a[href*="/verify-email?"]').first.get_attribute("href")))
    mailbox.get_by_role("button", name="Verify email address").click()
    mailbox.wait_for_load_state()
    mailbox.close()


def send(window: Window, text: str) -> None:
    window.activate(window.page.get_by_role("link", name="Messages", exact=True).locator("visible=true").first)
    window.follow("Send a test message", exact=False)
    window.fill(to="+2348012345678", message=text)
    window.sees("1 segment")
    window.press("Send test message")


def test_sign_up_leads_to_a_delivered_message_by_keyboard(window: Window, work: Callable[[], None]) -> None:
    window.has_pointer = False
    sign_up(window)
    verify(window, work)
    window.page.locator("#first-steps .done", has_text="erif").wait_for()
    send(window, "Hello from the first test.")
    window.sees("Queued")
    window.context.set_offline(True)
    window.sees("Not updated since")
    window.context.set_offline(False)
    window.page.get_by_text("Not updated since").wait_for(state="detached")
    window.problems.clear()  # the browser reports the lost connection
    work()
    window.sees("Delivered")
    window.inspect()


def test_sign_up_works_without_javascript_at_320_px_in_dark_mode(
    open_window: OpenWindow, work: Callable[[], None]
) -> None:
    window = open_window(
        java_script_enabled=False, viewport={"width": NARROW, "height": 740}, color_scheme="dark", is_mobile=True
    )
    sign_up(window)
    window.open("/dashboard/messages/new")
    window.fill(to="+2348012345678", message="Hello without scripts.")
    window.press("Send test message")
    work()
    window.refresh_until("Delivered")
    page = window.open("/docs/")
    page.get_by_text("Menu", exact=True).click()
    page.get_by_role("link", name="Idempotency", exact=True).filter(visible=True).click()
    page.get_by_text("Python", exact=True).first.click()
    window.sees("requests.post(")
    page.get_by_role("searchbox").fill("spend cap reached")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("link", name="SPEND_CAP_REACHED").click()
    window.sees("402 Payment Required")


def test_form_survives_an_ended_session(window: Window) -> None:
    sign_up(window)
    window.open("/dashboard/messages/new")
    window.fill(to="+2348012345678", message="Typed before the session ended.")
    window.sees("1 segment")
    window.context.clear_cookies()
    window.press("Send test message")
    window.sees("Sign in")
    window.fill(email=EMAIL, password=PASSWORD)
    window.press("Sign in")
    window.sees("Typed before the session ended.")
