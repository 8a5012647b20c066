"""Somebody at a browser, whose page must behave: no error in the console, nothing from elsewhere, no overflow."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]  # it has no types
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

SLOW_MS = 20_000
"""How long anything may take to appear; only a broken page needs it."""
WIDE, NARROW, NARROWEST, HEIGHT = 1280, 360, 320, 900
ALLOWED = frozenset({401, 409, 422})
"""Answers that Chromium reports as an error and that are none: a form to mend, a session that is over."""
NOT_OURS = frozenset({"/docs/"})
"""Pages with a reference that is not ours and does not fit a narrow window."""

Theme = Literal["light", "dark"]

_STATUS = re.compile(r"status of (\d{3})")
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_AXE = """async (options) => {
  const found = await axe.run({exclude: [["#swagger-ui"]]}, options);
  return found.violations.map((one) =>
    one.id + " (" + one.impact + "): " + one.nodes.map((node) => node.target.join(" ")).slice(0, 5).join(", "));
}"""
_OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return null;
  const wide = [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > width + 1);
  return wide.slice(0, 3).map((one) => one.tagName.toLowerCase() + (one.className ? "." + one.className : ""))
    .join(", ") || "body";
}"""


@dataclass
class Visitor:
    """A browser window with cookies of its own, and what went wrong in it.

    statuses: what the server may answer without the console's complaint counting
    """

    url: str
    context: BrowserContext
    page: Page
    statuses: set[int] = field(default_factory=lambda: set(ALLOWED))
    problems: list[str] = field(default_factory=list)
    _theme: Theme | None = None

    def watch(self) -> None:
        """Write down what a page may not do, from now on."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.note(f"script error: {error}"))
        self.page.on("request", self._asked)

    def open(self, path: str, status: int = 200) -> Page:
        """Open an address of the product, which must answer with a status."""
        if status >= 400:
            self.statuses.add(status)
        answer = self.page.goto(path if "://" in path else self.url + path)
        assert answer is not None, path
        assert answer.status == status, f"{path} answered {answer.status}"
        return self.page

    def press(self, name: str, *, exact: bool = True) -> None:
        """Press the button of that name."""
        self.page.get_by_role("button", name=name, exact=exact).first.click()

    def follow(self, name: str, *, exact: bool = True) -> None:
        """Follow the link of that name in the page's own part."""
        self.page.locator("main").get_by_role("link", name=name, exact=exact).first.click()

    def fill(self, **fields: str) -> None:
        """Type into fields by the names they are sent under."""
        for name, value in fields.items():
            self.page.locator(f'main [name="{name}"]:not([type=hidden])').first.fill(value)

    def sees(self, text: str, *, within: str = "main") -> None:
        """Wait until a text is to be seen."""
        self.page.locator(within).get_by_text(text).locator("visible=true").first.wait_for()

    def refresh_until(self, text: str, *, tries: int = 20) -> None:
        """Reload until a text is there, as somebody without scripts would."""
        for _ in range(tries):
            if self.page.locator("main").get_by_text(text).count():
                return
            self.page.wait_for_timeout(100)
            self.page.reload()
        self.sees(text)

    def size(self, width: int) -> None:
        """Make the window as wide as that, in CSS pixels."""
        if (self.page.viewport_size or {}).get("width") != width:
            self.page.set_viewport_size({"width": width, "height": HEIGHT})

    def theme(self, theme: Theme) -> None:
        """Prefer light or dark, as the system's setting."""
        if theme != self._theme:
            self.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            self._theme = theme

    def load_axe_early(self) -> None:
        """Let every page begin with axe, which saves sending half a megabyte to each."""
        self.context.add_init_script(AXE_SCRIPT)

    def axe(self) -> list[str]:
        """What axe finds: rule, impact and where; swagger-ui's own markup is left out."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        only = {"type": "tag", "values": _TAGS}
        found = self.page.evaluate(_AXE, {"runOnly": only, "resultTypes": ["violations"], "preload": False})
        return [str(one) for one in found]

    def overflow(self) -> str | None:
        """What makes the page scroll sideways; None when nothing does."""
        found = self.page.evaluate(_OVERFLOW)
        return None if found is None else str(found)

    def inspect(self) -> None:
        """Look at the open page as it is now, and note what is wrong with it."""
        self.check_access()
        self.check_width()

    def check_access(self) -> None:
        """Note what shuts people out."""
        for violation in self.axe():
            self.note(f"axe: {violation}")

    def check_width(self) -> None:
        """Note when the page scrolls sideways."""
        if self.page.url.removeprefix(self.url) in NOT_OURS:
            return
        wide = self.overflow()
        if wide:
            self.note(f"scrolls sideways: {wide}")

    def note(self, problem: str) -> None:
        """Write down what is wrong with the page as it is shown now."""
        size = self.page.viewport_size
        width = size["width"] if size else WIDE
        self.problems.append(f"{self.page.url.removeprefix(self.url)} at {width} px: {problem}")

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type != "error":
            return
        status = _STATUS.search(message.text)
        if not (status and int(status[1]) in self.statuses):
            self.note(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        asked = urlsplit(request.url)
        if asked.scheme in ("http", "https", "ws", "wss") and asked.netloc != urlsplit(self.url).netloc:
            self.note(f"asked another host: {request.url}")


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visitor]:
    """A visitor with a window of their own.

    options: of the window, such as `java_script_enabled`
    """
    size = {"width": WIDE, "height": HEIGHT}
    context = browser.new_context(**{"viewport": size, "reduced_motion": "reduce", "base_url": url, **options})
    context.set_default_timeout(SLOW_MS)
    try:
        visitor = Visitor(url, context, context.new_page())
        visitor.watch()
        yield visitor
    finally:
        context.close()
