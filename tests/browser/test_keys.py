"""A key's life by clicking: made, copied once, tried, rolled, its old secret ended, revoked."""

import json
import subprocess

from flask.testing import FlaskClient

from tests.browser.conftest import Visits, enter
from tests.browser.visitor import Visitor
from tests.support.accounts import Person

MESSAGE = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


def answers(client: FlaskClient, key: str) -> int:
    return client.post("/api/v1/messages/send", json=MESSAGE, headers={"X-API-Key": key}).status_code


def make_key(visitor: Visitor, name: str) -> str:
    visitor.open("/dashboard/api-keys/new")
    visitor.fill(name=name)
    visitor.press("Create key")
    return visitor.page.locator("dialog .secret").inner_text().strip()


def test_new_key_is_shown_once_and_leaving_warns_until_it_is_copied(visit: Visits, alice: Person) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    enter(visitor, alice)
    key = make_key(visitor, "Order service")
    assert key.startswith("sk_live_")
    visitor.inspect()
    visitor.page.keyboard.press("Escape")
    visitor.sees("You have not copied the key.", within="dialog")
    visitor.press("Copy key")
    visitor.sees("Copied", within="dialog")
    assert visitor.page.evaluate("() => navigator.clipboard.readText()") == key
    visitor.page.locator("dialog").get_by_role("link", name="Done").click()
    visitor.sees("About this key")
    assert key not in visitor.page.content()


def test_curl_line_of_a_new_key_works(visit: Visits, alice: Person) -> None:
    visitor = visit()
    enter(visitor, alice)
    make_key(visitor, "Shell")
    line = visitor.page.locator("dialog pre code").first.inner_text()
    assert line.startswith("curl")
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(said.stdout)["data"]["status"] == "queued"


def test_key_is_rotated_and_revoked(visit: Visits, alice: Person, client: FlaskClient) -> None:
    visitor = visit()
    enter(visitor, alice)
    old = make_key(visitor, "Shop")
    visitor.page.locator("dialog").get_by_role("link", name="Done").click()
    visitor.page.locator("dialog").get_by_role("link", name="Close anyway").click()
    visitor.follow("Roll")
    visitor.page.get_by_label("For 1 hour").check()
    visitor.press("Roll the key")
    new = visitor.page.locator("dialog .secret").inner_text().strip()
    assert answers(client, old) == answers(client, new) == 202
    visitor.page.locator("dialog").get_by_role("link", name="Done").click()
    visitor.page.locator("dialog").get_by_role("link", name="Close anyway").click()
    visitor.press("End the old one now")
    visitor.page.wait_for_load_state()
    assert (answers(client, old), answers(client, new)) == (401, 202)
    visitor.follow("Revoke")
    visitor.fill(confirm="Another name")
    visitor.press("Revoke the key")
    visitor.page.locator(".error-summary").wait_for()
    assert answers(client, new) == 202
    visitor.fill(confirm="Shop")
    visitor.press("Revoke the key")
    visitor.sees("Revoked")
    assert answers(client, new) == 401
