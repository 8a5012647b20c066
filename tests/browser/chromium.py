"""Finds and starts the Chromium of this machine; downloads none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NONE_FOUND = "no Chromium on this machine (apt-get install chromium)"
_FLAGS = ["--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars", "--no-first-run"]


def find() -> str | None:
    """The path of a Chromium on PATH, else of one that playwright has installed."""
    on_path = next(filter(None, map(shutil.which, NAMES)), None)
    if on_path:
        return on_path
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def started(path: str) -> Iterator[Browser]:
    """A browser until the end of the block; for root without a sandbox, which Chromium refuses."""
    flags = [*_FLAGS, "--no-sandbox"] if os.geteuid() == 0 else _FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()
