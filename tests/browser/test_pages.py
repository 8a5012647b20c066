"""Every page, light and dark, wide and narrow: it shuts nobody out, breaks nowhere, and asks no other host."""

import os
from collections.abc import Callable

import pytest
from flask import Flask

from tests.browser.conftest import Visits
from tests.browser.places import NOTHING_THERE, SECTIONS, Place, places, rules, section_of
from tests.browser.visitor import NARROW, NARROWEST, WIDE, Theme, Visitor
from tests.browser.world import World, make, sign_in

IS_LONG = os.environ.get("BROWSER") == "long"
"""Let axe read every page in all four ways; the short run reads one half light and wide, the other dark and narrow."""
WAYS: tuple[tuple[Theme, int], ...] = (("light", WIDE), ("dark", WIDE), ("dark", NARROW), ("light", NARROW))
"""In the order that changes least from one to the next."""
STATUS = {"/accept-invitation": 400}
"""What pages answer whose link is missing or over."""


def look_at(visitor: Visitor, place: Place, number: int) -> None:
    """Open a page once, and look at it light and dark, wide and narrow.

    number: decides in which way axe reads it
    """
    wanted = STATUS.get(place.rule, 200)
    visitor.statuses.add(wanted)
    answer = visitor.page.goto(f"{visitor.url}{place.path}")
    assert answer is not None
    if answer.status != wanted:
        visitor.note(f"answered {answer.status}")
        return
    for turn, (theme, width) in enumerate(WAYS):
        visitor.theme(theme)
        visitor.size(width)
        visitor.check_width()
        if IS_LONG or turn == number % 2 * 2:
            visitor.check_access()
    visitor.size(NARROWEST)
    visitor.check_width()


def test_every_page_is_in_a_checked_part(app: Flask) -> None:
    assert {section_of(rule.rule) for rule in rules(app)} == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_page_is_accessible_and_fits_its_width(
    app: Flask, visit: Visits, work: Callable[[], None], section: str
) -> None:
    world = make(app)
    work()
    found = [place for place in places(app, world.organization_id) if place.section == section]
    empty = {place.rule for place in found if place.path is None} - set(NOTHING_THERE)
    assert not empty, "the demo shows nothing there"
    nobody, somebody = visit(), visit()
    for visitor in (nobody, somebody):
        visitor.load_axe_early()
    enter(somebody, world, "olga@platform.example" if section == "operator" else "alice@acme.example")
    for number, place in enumerate(place for place in found if place.path is not None):
        look_at(somebody if place.rule.startswith(("/dashboard", "/admin")) else nobody, place, number)


def enter(visitor: Visitor, world: World, email: str) -> None:
    sign_in(visitor, email, world.password_of(email))
