"""`make screenshots`: every page as it looks, light and dark, narrow and wide; one that misbehaves fails the run."""

import io
import sys
from pathlib import Path

import click
from flask import Flask
from PIL import Image
from playwright.sync_api import Browser, Error

from bench.application import running_application
from saas_api.core.jobs import schedule
from tests.browser import chromium
from tests.browser.album import ALBUM, NEWCOMER, Guide, Way
from tests.browser.places import places
from tests.browser.serving import served
from tests.browser.visitor import NARROW, WIDE, Theme, Visitor, visiting
from tests.browser.world import make, sign_in
from tests.support.accounts import PASSWORD, sign_up
from tests.support.queue import run_all_jobs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
THEMES: tuple[Theme, ...] = ("light", "dark")
WISH = {"organizations": 5, "days": 90, "messages": 9_000, "seed": 1}
COLOURS = 256


@click.command()
@click.option("--only", default="", help="Names of screenshots, with commas; all without it.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Where they go.")
def main(only: str, folder: Path) -> None:
    """Make the screenshots of docs/screenshots again, on engines and data of their own."""
    path = chromium.find()
    if path is None:
        sys.exit(chromium.NONE_FOUND)
    names = {name.strip() for name in only.split(",") if name.strip()}
    known = {name for ways in ALBUM.values() for name in ways}
    if names - known:
        raise click.BadParameter(f"there are no {', '.join(sorted(names - known))}")
    folder.mkdir(parents=True, exist_ok=True)
    with running_application() as app, served(app) as url, chromium.started(path) as browser:
        problems = shoot(prepare(app, url), browser, url, folder, names or known)
    if problems:
        sys.exit("\n".join(problems))


def prepare(app: Flask, url: str) -> Guide:
    """A demo with a past, jobs that have run, and mails that have arrived."""
    app.config["APP_URL"] = url
    world = make(app, **WISH)
    sign_up(app.test_client(), NEWCOMER, "Newcomer")
    with app.app_context():
        schedule.run_due_jobs()
        run_all_jobs()
    found = places(app, world.organization_id)
    return Guide(app, world, {place.rule: place.path for place in found if place.path})


def shoot(guide: Guide, browser: Browser, url: str, folder: Path, names: set[str]) -> list[str]:
    """Take every picture; what went wrong is told at the end."""
    problems: list[str] = []
    with click.progressbar(length=len(names), label="Screenshots", file=sys.stderr) as bar:
        for email, ways in ALBUM.items():
            wanted = {name: way for name, way in ways.items() if name in names}
            if not wanted:
                continue
            with visiting(browser, url) as visitor:
                if email:
                    sign_in(visitor, email, PASSWORD if email == NEWCOMER else guide.world.password_of(email))
                for name, way in wanted.items():
                    problems += take(guide, visitor, folder / name, way)
                    bar.update(1)
    return problems


def take(guide: Guide, visitor: Visitor, stem: Path, way: Way) -> list[str]:
    """Go there, and take the four pictures.

    returns: what was wrong
    """
    visitor.size(WIDE)
    visitor.theme("light")
    try:
        way(guide, visitor)
        for theme in THEMES:
            visitor.theme(theme)
            for width in (NARROW, WIDE):
                visitor.size(width)
                visitor.check_width()
                write(visitor.page.screenshot(full_page=True), stem.with_name(f"{stem.name}-{theme}-{width}.png"))
    except (Error, AssertionError, LookupError) as error:
        visitor.note(f"{error}".strip().splitlines()[0])
    problems = [f"{stem.name}: {problem}" for problem in visitor.problems]
    visitor.problems.clear()
    return problems


def write(picture: bytes, path: Path) -> None:
    """Keep a picture with few colours, which makes it a third as large."""
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
