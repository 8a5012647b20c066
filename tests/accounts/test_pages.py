"""Pages of sign-up and sign-in."""

from flask import Flask

from tests.support.accounts import PASSWORD, Person
from tests.support.pages import Browser


def test_sign_up_page_starts_a_session(app: Flask) -> None:
    browser = Browser(app)
    answer = browser.submit(
        "/register", organization_name="Acme", email="alice@acme.example", password=PASSWORD, timezone="Europe/Paris"
    )
    assert (answer.status_code, answer.location) == (303, "/dashboard")
    home = browser.open("/dashboard")
    assert home.status_code == 200
    assert "Welcome, alice@acme.example." in home.text


def test_sign_up_page_keeps_the_form_when_the_address_is_taken(app: Flask, alice: Person) -> None:
    answer = Browser(app).submit("/register", organization_name="Beta", email=alice.email, password=PASSWORD)
    assert answer.status_code == 409
    assert "There is an account with this e-mail address." in answer.text
    assert 'value="Beta"' in answer.text
    assert PASSWORD not in answer.text
