"""API keys in the browser: created, copied once, used, rotated and revoked."""

import json
import subprocess

from flask.testing import FlaskClient

from tests.browser.conftest import OpenWindow, use_session
from tests.browser.window import Window
from tests.support.accounts import User

MESSAGE = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


def send_status(client: FlaskClient, key: str) -> int:
    return client.post("/api/v1/messages/send", json=MESSAGE, headers={"X-API-Key": key}).status_code


def create_key(window: Window, name: str) -> str:
    window.open("/dashboard/api-keys/new")
    window.fill(name=name)
    window.press("Create key")
    return window.page.locator("dialog .secret").inner_text().strip()


def create_live_key(window: Window, name: str) -> str:
    window.open("/dashboard/api-keys/new?mode=live")
    window.fill(name=name)
    window.check("Live")
    window.press("Create key")
    window.sees("Create a live key?")
    window.inspect()
    window.press("Create live key")
    return window.page.locator("dialog .secret").inner_text().strip()


def leave_dialog(window: Window) -> None:
    """Close the dialog of a new secret without copying it."""
    for name in ("Done", "Close anyway"):
        window.activate(window.page.locator("dialog").get_by_role("link", name=name))


def test_new_key_is_shown_once_and_leaving_warns_until_it_is_copied(open_window: OpenWindow, alice: User) -> None:
    window = open_window(permissions=["clipboard-read", "clipboard-write"])
    use_session(window, alice)
    key = create_key(window, "Order service")
    assert key.startswith("sk_test_")
    window.inspect()
    window.page.keyboard.press("Escape")
    window.sees("You have not copied the key.", within="dialog")
    window.press("Copy key")
    window.sees("Copied", within="dialog")
    assert window.page.evaluate("() => navigator.clipboard.readText()") == key
    window.page.locator("dialog").get_by_role("link", name="Done").click()
    window.sees("Rate limit for this key")
    assert key not in window.page.content()


def test_key_is_created_without_javascript_and_its_curl_line_works(open_window: OpenWindow, alice: User) -> None:
    window = open_window(java_script_enabled=False)
    use_session(window, alice)
    create_key(window, "Shell")
    line = window.page.locator("dialog pre code").first.inner_text()
    assert line.startswith("curl")
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(result.stdout)["data"]["status"] == "queued"
    window.open("/dashboard/messages?mode=test")
    window.check("Select message to")
    window.check_width()
    window.press("Cancel messages")
    window.sees("1 message canceled.")
    window.open("/dashboard/api-keys")
    window.check("Select Shell")
    window.press("Revoke")
    window.fill(typed="Revoke 1 key")
    window.check_width()
    window.press("Revoke 1 key")
    window.sees("1 key revoked.")


def test_key_is_created_rotated_and_revoked_by_keyboard(
    open_window: OpenWindow, alice: User, client: FlaskClient
) -> None:
    window = open_window(has_pointer=False)
    use_session(window, alice)
    old = create_key(window, "Shop")
    leave_dialog(window)
    window.follow("Rotate")
    window.check("For 1 hour")
    window.press("Rotate key")
    new = window.page.locator("dialog .secret").inner_text().strip()
    assert send_status(client, old) == send_status(client, new) == 202
    leave_dialog(window)
    window.press("Revoke old secret")
    window.page.wait_for_load_state()
    assert (send_status(client, old), send_status(client, new)) == (401, 202)
    window.follow("Revoke")
    window.fill(confirm="Another name")
    window.press("Revoke key")
    window.page.locator(".error-summary").wait_for()
    assert send_status(client, new) == 202
    window.fill(confirm="Shop")
    window.press("Revoke key")
    window.sees("Revoked")
    assert send_status(client, new) == 401
    assert create_live_key(window, "Shop, live").startswith("sk_live_")
