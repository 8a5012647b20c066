"""Test messages from the dashboard: always in test mode, delivered like others, never counted as usage."""

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from limits import parse as parse_limit

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import Headers, User
from tests.support.message_pages import MESSAGES, NEW, list_messages, pages_module
from tests.support.messages import SMS, Work, send_message
from tests.support.pages import Browser, form_of

HTMX = {"HX-Request": "true", "X-Poll": "1"}


def test_user_sends_a_test_message_and_sees_it_delivered(
    browser: Browser, client: FlaskClient, alice: User, work: Work
) -> None:
    response = browser.submit(NEW, type="sms", to=SMS["to"], message="x" * 161)
    (sent,) = list_messages(client, alice)
    assert (response.status_code, response.location) == (303, f"{MESSAGES}/{sent['message_id']}")
    assert (sent["mode"], sent["segments"], sent["cost"], sent["status"]) == ("test", 2, "0", "queued")
    waiting = browser.open(response.location, **HTMX)
    assert (waiting.status_code, "data-poll" in waiting.text, "<html" in waiting.text) == (200, True, False)
    assert 'hx-trigger="every 2s"' in waiting.text
    work()
    arrived = browser.open(response.location, **HTMX)
    assert (arrived.status_code, "data-poll" in arrived.text) == (286, False)
    assert "Delivered" in arrived.text
    assert "1 attempt" in arrived.text
    whole = browser.open(response.location)
    assert (whole.status_code, "<html" in whole.text) == (200, True)
    assert "Test messages are not metered." in whole.text


def test_test_message_by_email_is_delivered(browser: Browser, client: FlaskClient, alice: User, work: Work) -> None:
    changes = {"type": "email", "to": "bounce@simulator.example", "subject": "Hi <b>", "message": "Hello"}
    page_path = browser.submit(NEW, **changes).location
    work()
    page = browser.open(page_path).text
    assert "bounced: The mailbox rejected the message." in page
    assert "Hi &lt;b&gt;" in page
    assert list_messages(client, alice, status="failed")[0]["segments"] == 1


def test_test_message_is_not_counted(browser: Browser, client: FlaskClient, alice: User, work: Work) -> None:
    browser.submit(NEW)
    work()
    usage = client.get("/api/v1/usage", headers=alice.headers).json["data"]
    assert usage["summary"]["total_requests"] == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"to": ""}, "Say whom it goes to."),
        ({"to": "0123"}, "Not a number in E.164 form"),
        ({"type": "email"}, "Not an email address."),
        ({"type": "fax"}, "Must be one of"),
        ({"message": ""}, "Write a text."),
        ({"message": "x" * 1601}, "An SMS holds at most 1600 characters."),
        ({"subject": "Hi"}, "An SMS has no subject."),
    ],
)
def test_rejected_form_shows_errors_and_keeps_its_values(
    browser: Browser, client: FlaskClient, alice: User, changes: dict[str, str], expected: str
) -> None:
    fields_sent = {"type": "sms", "to": "+2348012345678", "message": "Dear & <you>", **changes}
    response = browser.submit(NEW, **fields_sent)
    assert response.status_code == 422
    assert expected in response.text
    rejected_form = form_of(response, NEW)
    assert (rejected_form["to"], rejected_form.get("message", [""])) == ([fields_sent["to"]], [fields_sent["message"]])
    assert list_messages(client, alice) == []


def test_form_submitted_twice_sends_one_message(browser: Browser, client: FlaskClient, alice: User) -> None:
    fields = browser.form(NEW)
    first, second = browser.send(NEW, fields), browser.send(NEW, fields)
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.location == second.location
    assert len(list_messages(client, alice)) == 1


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE organizations SET status = 'suspended' WHERE id = :id", 403),
        ("UPDATE subscriptions SET standing = 'restricted' WHERE organization_id = :id", 403),
        ("UPDATE subscriptions SET standing = 'good' WHERE organization_id = :id", 303),
    ],
)
def test_suspended_organization_cannot_send_test_messages(
    app: Flask, browser: Browser, client: FlaskClient, alice: User, live: Headers, sql: str, expected: int
) -> None:
    send_message(client, live)  # opens the account
    with app.app_context(), tenancy.system_session("auth.register") as session:
        session.execute(sa.text(sql), {"id": ids.parse_id("org", alice.organization_id)})
    response = browser.submit(NEW)
    assert response.status_code == expected
    assert ("may not send right now" in response.text) == (expected == 403)
    assert len(list_messages(client, alice, mode="test")) == (0 if expected == 403 else 1)


def test_test_messages_are_rate_limited(
    browser: Browser, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module(), "TEST_MESSAGES_PER_MINUTE", parse_limit("1 per minute"))
    assert browser.submit(NEW).status_code == 303
    refused = browser.submit(NEW, message="Kept")
    assert (refused.status_code, form_of(refused, NEW)["message"]) == (429, ["Kept"])
    assert len(list_messages(client, alice)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 160, "1 segment<"),
        ("x" * 161, "2 segments<"),
        ("😀" * 36, "2 segments. “😀” is not in the GSM alphabet"),
        ("", "No segments"),
    ],
)
def test_segments_are_counted_while_typing(browser: Browser, text: str, expected: str) -> None:
    fields = {**browser.form(NEW), "message": text, "to": "anything"}
    whole = browser.send(f"{NEW}/count", fields)
    assert (whole.status_code, expected in whole.text, "<html" in whole.text) == (200, True, True)
    assert form_of(whole, NEW)["to"] == ["anything"]
    part = browser.client.post(f"{NEW}/count", data=fields, headers={"HX-Request": "true"})
    assert (part.status_code, expected in part.text, "<html" in part.text) == (200, True, False)
