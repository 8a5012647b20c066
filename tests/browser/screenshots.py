"""`make screenshots`: screenshots of pages, light and dark, narrow and wide; fails when a page has a problem."""

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
from tests.browser.demo import create_demo, sign_in
from tests.browser.page_routes import page_routes
from tests.browser.screenshot_pages import NEWCOMER, SCREENSHOTS, ScreenshotContext, Steps
from tests.browser.window import NARROW, WIDE, Theme, Window, new_window
from tests.support.accounts import PASSWORD, sign_up
from tests.support.queue import run_all_jobs
from tests.support.serving import served

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
THEMES: tuple[Theme, ...] = ("light", "dark")
DEMO_OPTIONS = {"organizations": 5, "days": 90, "messages": 9_000, "seed": 1}
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
    known = {name for pages in SCREENSHOTS.values() for name in pages}
    if names - known:
        raise click.BadParameter(f"there are no {', '.join(sorted(names - known))}")
    folder.mkdir(parents=True, exist_ok=True)
    with running_application() as app, served(app) as url, chromium.started(path) as browser:
        problems = shoot(prepare(app, url), browser, url, folder, names or known)
    if problems:
        sys.exit("\n".join(problems))


def prepare(app: Flask, url: str) -> ScreenshotContext:
    """Create the demo data, run scheduled jobs and deliver mails."""
    app.config["APP_URL"] = url
    demo = create_demo(app, **DEMO_OPTIONS)
    sign_up(app.test_client(), NEWCOMER, "Newcomer")
    with app.app_context():
        schedule.run_due_jobs()
        run_all_jobs()
    routes = page_routes(app, demo.organization_id)
    return ScreenshotContext(app, demo, {route.rule: route.path for route in routes if route.path})


def shoot(context: ScreenshotContext, browser: Browser, url: str, folder: Path, names: set[str]) -> list[str]:
    """Take the screenshots and return the problems of their pages."""
    problems: list[str] = []
    with click.progressbar(length=len(names), label="Screenshots", file=sys.stderr) as bar:
        for email, pages in SCREENSHOTS.items():
            selected = {name: open_page for name, open_page in pages.items() if name in names}
            if not selected:
                continue
            with new_window(browser, url) as window:
                if email:
                    sign_in(window, email, PASSWORD if email == NEWCOMER else context.demo.password_of(email))
                for name, open_page in selected.items():
                    problems += take(context, window, folder / name, open_page)
                    bar.update(1)
    return problems


def take(context: ScreenshotContext, window: Window, stem: Path, open_page: Steps) -> list[str]:
    """Open a page and take its four screenshots.

    returns: the problems of the page
    """
    window.size(WIDE)
    window.theme("light")
    try:
        open_page(context, window)
        for theme in THEMES:
            window.theme(theme)
            for width in (NARROW, WIDE):
                window.size(width)
                window.check_width()
                write(window.page.screenshot(full_page=True), stem.with_name(f"{stem.name}-{theme}-{width}.png"))
    except (Error, AssertionError, LookupError) as error:
        window.record(f"{error}".strip().splitlines()[0])
    problems = [f"{stem.name}: {problem}" for problem in window.problems]
    window.problems.clear()
    return problems


def write(picture: bytes, path: Path) -> None:
    """Write a picture with few colours, which makes it a third as large."""
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
