"""The customer portal in the browser: on its own, and in frames of a listed site and of another one."""

import re

from flask import Flask, request
from flask.testing import FlaskClient
from playwright.sync_api import expect

from saas_api.services import services
from tests.browser.conftest import OpenWindow
from tests.browser.window import NARROW, NARROWEST, WIDE, Window
from tests.support.accounts import User, create_key
from tests.support.portal import create_link
from tests.support.services import change_service, create_service, service_headers
from tests.support.serving import served

SECTIONS = ("api-keys", "api-keys/new", "usage", "logs", "billing/invoices", "webhooks")


def check(window: Window) -> None:
    """Check a page light and wide, dark and narrow."""
    window.theme("light")
    window.size(WIDE)
    window.check_width()
    window.check_accessibility()
    window.theme("dark")
    for width in (NARROW, NARROWEST):
        window.size(width)
        window.check_width()


def make_site(portal_url: str) -> Flask:
    """Another site, whose page has a frame with the portal link in its query."""
    site = Flask("site")

    @site.get("/")
    def show() -> str:
        link = request.query_string.decode().removeprefix("link=")
        return f'<!doctype html><title>Site</title><iframe src="{portal_url}{link}" width="900" height="600"></iframe>'

    return site


def test_portal_is_accessible_and_shown_in_frames_of_listed_sites_only(
    app: Flask, client: FlaskClient, open_window: OpenWindow, alice: User
) -> None:
    create_key(client, alice, name="production")
    maker, window = service_headers(create_service(app)), open_window()
    window.load_axe_early()
    link = create_link(client, maker, alice.organization_id)
    window.open(link)
    for section in SECTIONS:
        window.open(f"/portal/dashboard/{section}")
        check(window)
    window.open(link, 410)
    check(window)
    with served(make_site(window.url)) as listed:
        change_service(app, services.set_portal_origins, "lookups", [listed])
        for site, is_shown in ((listed, True), (listed.replace("127.0.0.1", "localhost"), False)):
            link = create_link(client, maker, alice.organization_id, "keys:read", "usage:read")
            page = open_window(java_script_enabled=False).context.new_page()
            page.goto(f"{site}/?link={link}")
            if is_shown:
                frame = page.frame_locator("iframe")
                expect(frame.get_by_role("link", name="production")).to_be_visible()
                frame.get_by_role("link", name="Usage").click()
                expect(frame.get_by_role("heading", name="Usage", exact=True)).to_be_visible()
            else:
                page.frames[1].wait_for_url(re.compile("^chrome-error:"))
