"""A browser window that records problems: console errors, requests to other hosts, and overflow."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]  # it has no types
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request

SLOW_MS = 20_000
"""Timeout of every wait; only a broken page reaches it."""
WIDE, NARROW, NARROWEST, HEIGHT = 1280, 360, 320, 900
OTHER_WIDTHS = (768, 1024, 1920)
MOST_ARROWS = 12
"""More than any group has radio buttons."""
ALLOWED = frozenset({401, 409, 422})
"""Statuses that Chromium reports as errors and that are none: rejected forms and ended sessions."""
FOREIGN_PAGES = frozenset({"/docs/explorer"})
"""Pages of Swagger UI, which do not fit a narrow window."""

Theme = Literal["light", "dark"]

_STATUS = re.compile(r"status of (\d{3})")
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# A part that a poll replaces while axe reads the page leaves it elements without text, such as an empty heading.
_AXE = """async (options) => {
  const hold = (event) => { event.detail.shouldSwap = false; };
  document.addEventListener("htmx:beforeSwap", hold);
  const result = await axe.run({exclude: [["#swagger-ui"]]}, options);
  document.removeEventListener("htmx:beforeSwap", hold);
  return result.violations.map(({id, impact, nodes}) =>
    id + " (" + impact + "): " + nodes.map((node) => node.target.join(" ")).slice(0, 5).join(", "));
}"""
_OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return null;
  const elements = [...document.body.querySelectorAll("*")];
  const wide = elements.filter((element) => element.getBoundingClientRect().right > width + 1);
  return wide.slice(0, 3).map(({tagName, className}) => tagName.toLowerCase() + (className ? "." + className : ""))
    .join(", ") || "body";
}"""

_CUT_OFF = """() => {
  const panels = [...document.querySelectorAll(".panel")];
  const cutOff = panels.filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth);
  return cutOff.map((panel) => panel.querySelector("caption").textContent.trim());
}"""
_SQUEEZED = """() => {
  const texts = [...document.querySelectorAll("main p, main dt, main dd, main td, main th, main h3, main li")];
  const squeezed = texts.filter((element) => {
    const { width, height } = element.getBoundingClientRect();
    return width > 1 && width < 40 && height > 100 && element.textContent.trim().length > 8;
  });
  return squeezed.slice(0, 3).map((element) => element.textContent.trim().slice(0, 40));
}"""


_FOCUS_BEFORE = """(control) => {
  const page = document.querySelector("dialog:modal") || document;
  const isInGroup = (element) => control.type === "radio" && element.name === control.name;
  const controls = [...page.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
  const before = controls.slice(0, controls.indexOf(control)).filter((element) =>
    element.tabIndex >= 0 && !element.disabled && !isInGroup(element) && element.checkVisibility());
  before.at(-1)?.focus();
}"""
_OUTLINE_OF_FOCUS = """(control) =>
  control === document.activeElement ? getComputedStyle(control).outlineStyle : null"""
_UNDIRECTED = """() => {
  const walker = document.createTreeWalker(document.querySelector("body"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const { textContent, parentElement } = walker.currentNode;
    const isRightToLeft = /^[^A-Za-z]*[\u0590-\u08ff]/.test(textContent.trim());
    if (isRightToLeft && !parentElement.closest("bdi, [dir], option, textarea, .visually-hidden")) {
      found.push(parentElement.outerHTML.slice(0, 80));
    }
  }
  return found.slice(0, 3);
}"""


@dataclass
class Window:
    """A browser window with cookies of its own, and the problems of its pages.

    statuses: of responses whose console error is no problem
    has_pointer: False uses the keyboard alone: Tab to reach things, Enter and Space to press them, and typing
    """

    url: str
    context: BrowserContext
    page: Page
    statuses: set[int] = field(default_factory=lambda: set(ALLOWED))
    problems: list[str] = field(default_factory=list)
    has_pointer: bool = True
    _theme: Theme | None = None

    def watch(self) -> None:
        """Record problems from now on."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.record(f"script error: {error}"))
        self.page.on("request", self._on_request)

    def open(self, path: str, status: int = 200) -> Page:
        """Open an address of the product, which must answer with a status."""
        if status >= 400:
            self.statuses.add(status)
        response = self.page.goto(path if "://" in path else self.url + path)
        assert response is not None, path
        assert response.status == status, f"{path} answered {response.status}"
        return self.page

    def press(self, name: str, *, exact: bool = True) -> None:
        """Press the button of that name."""
        self.activate(self.page.get_by_role("button", name=name, exact=exact).first)

    def follow(self, name: str, *, exact: bool = True) -> None:
        """Follow the link of that name in the main part of the page."""
        self.activate(self.page.locator("main").get_by_role("link", name=name, exact=exact).first)

    def fill(self, **fields: str) -> None:
        """Type into fields by the names they are sent under."""
        for name, value in fields.items():
            control = self.page.locator(f'main [name="{name}"]:not([type=hidden])').first
            if self.has_pointer:
                control.fill(value)
            else:
                self.reach(control)
                self.page.keyboard.press("ControlOrMeta+a")
                self.page.keyboard.type(value)

    def activate(self, control: Locator, key: str = "Enter") -> None:
        """Click a control, or press it with a key."""
        if self.has_pointer:
            control.click()
            return
        self.reach(control)
        control.press(key)  # waits for the page that it leads to, as a click does

    def check(self, label: str) -> None:
        """Check the box or radio button whose label begins so."""
        control = self.page.get_by_label(label, exact=False).first
        if self.has_pointer:
            control.check()
            return
        self.reach(control)
        if not control.is_checked():
            self.page.keyboard.press("Space")

    def reach(self, control: Locator) -> None:
        """Press Tab on what comes before a control, which must get the focus, visibly; of radio buttons with arrows."""
        control.evaluate(_FOCUS_BEFORE)
        self.page.keyboard.press("Tab")
        for _ in range(MOST_ARROWS):
            outline = control.evaluate(_OUTLINE_OF_FOCUS)
            if outline or control.get_attribute("type") != "radio":
                break
            self.page.keyboard.press("ArrowDown")
        assert outline not in (None, "none"), f"the focus does not get to {control}, or is not seen there"

    def sees(self, text: str, *, within: str = "main") -> None:
        """Wait until a text is visible."""
        self.page.locator(within).get_by_text(text).locator("visible=true").first.wait_for()

    def refresh_until(self, text: str, *, tries: int = 20) -> None:
        """Reload until a text is visible, as a browser without scripts does."""
        for _ in range(tries):
            if self.page.locator("main").get_by_text(text).count():
                return
            self.page.wait_for_timeout(100)
            self.page.reload()
        self.sees(text)

    def size(self, width: int) -> None:
        """Set the width of the window in CSS pixels."""
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
        """Return the violations that axe finds: rule, impact and elements, without those of Swagger UI."""
        self.page.locator("main").first.wait_for(state="attached")  # Swagger UI adds its own after the page has loaded
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        only = {"type": "tag", "values": _TAGS}
        violations = self.page.evaluate(_AXE, {"runOnly": only, "resultTypes": ["violations"], "preload": False})
        return [str(violation) for violation in violations]

    def overflow(self) -> str | None:
        """Return the elements that make the page scroll sideways, or None."""
        elements = self.page.evaluate(_OVERFLOW)
        return None if elements is None else str(elements)

    def inspect(self) -> None:
        """Check the open page and record its problems."""
        self.check_accessibility()
        self.check_width()

    def check_accessibility(self) -> None:
        """Record violations of accessibility."""
        for violation in self.axe():
            self.record(f"axe: {violation}")

    def check_width(self) -> None:
        """Record when the page scrolls sideways, cuts a table off, or breaks a text into lines of a letter."""
        if self.page.url.removeprefix(self.url) in FOREIGN_PAGES:
            return
        wide = self.overflow()
        if wide:
            self.record(f"scrolls sideways: {wide}")
        for caption in self.page.evaluate(_CUT_OFF):
            self.record(f"cuts off a table: {caption}")
        for text in self.page.evaluate(_SQUEEZED):
            self.record(f"breaks a text into letters: {text}")

    def check_direction(self) -> None:
        """Record texts that are written from right to left without a direction of their own."""
        for element in self.page.evaluate(_UNDIRECTED):
            self.record(f"has no direction of its own: {element}")

    def record(self, problem: str) -> None:
        """Record a problem of the current page."""
        size = self.page.viewport_size
        width = size["width"] if size else WIDE
        self.problems.append(f"{self.page.url.removeprefix(self.url)} at {width} px: {problem}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type != "error":
            return
        status = _STATUS.search(message.text)
        if not (status and int(status[1]) in self.statuses):
            self.record(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.netloc != urlsplit(self.url).netloc:
            self.record(f"requested another host: {request.url}")


@contextmanager
def new_window(browser: Browser, url: str, *, has_pointer: bool = True, **options: Any) -> Iterator[Window]:
    """A window with cookies of its own.

    options: of the window, such as `java_script_enabled`
    """
    size = {"width": WIDE, "height": HEIGHT}
    context = browser.new_context(**{"viewport": size, "reduced_motion": "reduce", "base_url": url, **options})
    context.set_default_timeout(SLOW_MS)
    try:
        window = Window(url, context, context.new_page(), has_pointer=has_pointer)
        window.watch()
        yield window
    finally:
        context.close()
