"""Creates the demo data and signs in its users."""

import json
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.demo import seed
from saas_api.demo.organizations import DemoCredentials
from tests.browser.window import Window

DEMO_OPTIONS = {"organizations": 4, "days": 35, "messages": 300, "seed": 1}
"""Enough for invoices, payments and accounts of every status."""


@dataclass(frozen=True)
class Demo:
    """The created demo data.

    organization_id: of Acme
    """

    credentials: DemoCredentials
    organization_id: UUID

    def password_of(self, email: str) -> str:
        return next(login.password for login in self.credentials.logins if login.email == email)


def create_demo(app: Flask, **options: int) -> Demo:
    """Delete the demo data and create them again.

    options: override DEMO_OPTIONS
    """
    Path(app.config["INSTANCE"], "demo.json").unlink(missing_ok=True)
    with app.app_context():
        credentials = seed.seed_demo(**{**DEMO_OPTIONS, **options})
        with tenancy.system_session("demo.seed") as session:
            organization_id = session.scalar(sa.text("SELECT id FROM organizations WHERE name = 'Acme'"))
    assert isinstance(organization_id, UUID), json.dumps(options)
    return Demo(credentials, organization_id)


def use_hard_names(app: Flask, demo: Demo) -> None:
    """Rename what people name: to Arabic, and to a word of 80 letters that nothing else breaks."""
    word, values = "W" * 80, {"org": demo.organization_id}
    renamed = {
        "organizations SET name": f"شركة النور {word}' WHERE id = :org",
        "users SET full_name": "مريم عبد الله' WHERE id IN ("
        "SELECT user_id FROM memberships WHERE organization_id = :org)",
        "api_keys SET name": f"خدمة {word}' WHERE organization_id = :org",
        "webhook_endpoints SET description": f"{word}' WHERE organization_id = :org",
    }
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        for column, value in renamed.items():
            session.execute(sa.text(f"UPDATE {column} = '{value}"), values)


def sign_in(window: Window, email: str, password: str) -> None:
    """Sign in with the form."""
    window.open("/login")
    window.fill(email=email, password=password)
    window.press("Sign in")
    window.page.wait_for_url(lambda url: not url.endswith("/login"))
