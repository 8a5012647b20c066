"""Two-factor sign-in of test users: turning it on, and the codes of their authenticator app."""

import html
import re
from dataclasses import dataclass
from datetime import timedelta

import pyotp
from flask import Flask

from saas_api.core import clock
from tests.support.accounts import User
from tests.support.pages import Browser

PAGE = "/dashboard/account/two-factor"
STEP = timedelta(seconds=30)


@dataclass(frozen=True)
class Authenticator:
    """The app of a user, and the recovery codes."""

    secret: str
    recovery_codes: list[str]

    def code(self, steps: int = 0) -> str:
        """The code of this time step, or of one so many steps later."""
        return pyotp.TOTP(self.secret).at(clock.now() + steps * STEP)

    def next_code(self) -> str:
        """A code that was not used: the clock goes on by one step, and stops there."""
        clock.freeze_time(clock.now() + STEP)
        return self.code()


def turn_on(app: Flask, user: User) -> Authenticator:
    """Turn two-factor sign-in on for a user who has just signed in."""
    browser = Browser(app, user)
    assert browser.submit(PAGE).status_code == 303
    secret = shown_secret(browser.open(f"{PAGE}/setup").text)
    response = browser.submit(f"{PAGE}/setup", code=pyotp.TOTP(secret).at(clock.now()))
    assert response.status_code == 200, response.text
    return Authenticator(secret, shown_codes(response.text))


def shown_secret(text: str) -> str:
    """The key on the page of the setup."""
    match = re.search(r'aria-label="Key for your authenticator app">([A-Z2-7 ]+)<', text)
    assert match is not None
    return match[1].replace(" ", "")


def shown_codes(text: str) -> list[str]:
    """The recovery codes on a page."""
    match = re.search(r'aria-label="Recovery codes">([^<]+)<', text)
    assert match is not None
    return html.unescape(match[1]).split()
