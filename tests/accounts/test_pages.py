"""Pages of sign-up and sign-in."""

from flask import Flask

from tests.support.accounts import PASSWORD, User
from tests.support.pages import Browser


def test_sign_up_page_starts_a_session(app: Flask) -> None:
    browser = Browser(app)
    response = browser.submit(
        "/register", organization_name="Acme", email="alice@acme.example", password=PASSWORD, timezone="Europe/Paris"
    )
    assert (response.status_code, response.location) == (303, "/dashboard")
    home = browser.open("/dashboard")
    assert home.status_code == 200
    assert "Welcome, alice@acme.example." in home.text


def test_sign_up_page_keeps_the_form_when_the_address_is_taken(app: Flask, alice: User) -> None:
    response = Browser(app).submit("/register", organization_name="Beta", email=alice.email, password=PASSWORD)
    assert response.status_code == 409
    assert "There is an account with this email address." in response.text
    assert 'value="Beta"' in response.text
    assert PASSWORD not in response.text


def test_token_of_a_visitor_is_refused_after_the_sign_in(app: Flask, alice: User) -> None:
    """Small: what was known of a browser before its user signed in must not be of use afterwards."""
    browser = Browser(app)
    planted = browser.form("/login")["csrf_token"]
    cookie = browser.client.get_cookie("visit")
    browser.submit("/login", email=alice.email, password=PASSWORD)
    assert browser.client.get_cookie("visit") != cookie
    assert browser.send("/logout", {"csrf_token": planted}).status_code == 400


def test_token_of_a_visitor_is_refused_after_the_sign_up(app: Flask) -> None:
    browser = Browser(app)
    planted = browser.form("/register")["csrf_token"]
    browser.submit("/register", organization_name="Acme", email="alice@acme.example", password=PASSWORD)
    assert browser.send("/logout", {"csrf_token": planted}).status_code == 400
