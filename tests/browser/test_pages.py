"""Every page, light and dark, wide and narrow: accessible, without overflow or requests to other hosts.

The names on them are hard: Arabic, and a word of 80 letters.
"""

import os
from collections.abc import Callable

import pytest
from flask import Flask

from tests.browser.conftest import OpenWindow
from tests.browser.demo import Demo, create_demo, sign_in, use_hard_names
from tests.browser.page_routes import SECTIONS, WITHOUT_DEMO_DATA, PageRoute, page_routes, rules, section_of
from tests.browser.window import NARROW, NARROWEST, OTHER_WIDTHS, WIDE, Theme, Window

IS_LONG = os.environ.get("BROWSER") == "long"
"""Check every page in all four views; the short run has two, axe reads half of the pages in each, and of the other
widths each page has one."""
VIEWS: tuple[tuple[Theme, int], ...] = (
    (("light", WIDE), ("dark", WIDE), ("dark", NARROW), ("light", NARROW))
    if IS_LONG
    else (("light", WIDE), ("dark", NARROW))
)
"""In the order with the fewest changes."""
SIGNED_IN = ("/dashboard", "/admin", "/organizations")
"""Beginnings of paths that need a session."""
STATUS = {"/accept-invitation": 400}
"""Statuses of pages whose link is missing or expired."""


def check_page(window: Window, route: PageRoute, number: int) -> None:
    """Open a page once, and check it light and dark, wide and narrow.

    number: decides in which view axe reads it
    """
    expected = STATUS.get(route.rule, 200)
    window.statuses.add(expected)
    response = window.page.goto(f"{window.url}{route.path}")
    assert response is not None
    if response.status != expected:
        window.record(f"answered {response.status}")
        return
    window.check_direction()
    for index, (theme, width) in enumerate(VIEWS):
        window.theme(theme)
        window.size(width)
        window.check_width()
        if IS_LONG or index == number % 2:
            window.check_accessibility()
    others = OTHER_WIDTHS if IS_LONG else OTHER_WIDTHS[number % len(OTHER_WIDTHS) :][:1]
    for width in (NARROWEST, *others):
        window.size(width)
        window.check_width()


def test_every_page_is_in_a_checked_part(app: Flask) -> None:
    assert {section_of(rule.rule) for rule in rules(app)} == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_page_is_accessible_and_fits_its_width(
    app: Flask, open_window: OpenWindow, work: Callable[[], None], section: str
) -> None:
    demo = create_demo(app)
    use_hard_names(app, demo)
    work()
    routes = [route for route in page_routes(app, demo.organization_id) if route.section == section]
    empty = {route.rule for route in routes if route.path is None} - set(WITHOUT_DEMO_DATA)
    assert not empty, "no demo data for these pages"
    anonymous, signed_in = open_window(), open_window()
    for window in (anonymous, signed_in):
        window.load_axe_early()
    sign_in_to_demo(signed_in, demo, "olga@platform.example" if section == "operator" else "alice@acme.example")
    for number, route in enumerate(route for route in routes if route.path is not None):
        check_page(signed_in if route.rule.startswith(SIGNED_IN) else anonymous, route, number)


def sign_in_to_demo(window: Window, demo: Demo, email: str) -> None:
    sign_in(window, email, demo.password_of(email))
