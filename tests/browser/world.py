"""A demo with a past, and its people at their browsers."""

import json
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.demo import seed
from saas_api.demo.organizations import DemoCredentials
from tests.browser.visitor import Visitor

WISH = {"organizations": 4, "days": 35, "messages": 300, "seed": 1}
"""Enough that every state of an invoice, a payment and an account is there."""


@dataclass(frozen=True)
class World:
    """What the demo made.

    organization_id: of Acme
    """

    facts: DemoCredentials
    organization_id: UUID

    def password_of(self, email: str) -> str:
        return next(login.password for login in self.facts.logins if login.email == email)


def make(app: Flask, **wish: int) -> World:
    """Make the demo anew."""
    Path(app.config["INSTANCE"], "demo.json").unlink(missing_ok=True)
    with app.app_context():
        facts = seed.seed_demo(**{**WISH, **wish})
        with tenancy.system_session("demo.seed") as session:
            found = session.scalar(sa.text("SELECT id FROM organizations WHERE name = 'Acme'"))
    assert isinstance(found, UUID), json.dumps(wish)
    return World(facts, found)


def sign_in(visitor: Visitor, email: str, password: str) -> None:
    """Sign somebody in by hand."""
    visitor.open("/login")
    visitor.fill(email=email, password=password)
    visitor.press("Sign in")
    visitor.page.wait_for_url(lambda url: not url.endswith("/login"))
