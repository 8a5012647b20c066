"""Names of browsers for people, from the User-Agent header of a sign-in."""

import re

_BROWSERS = (  # the first that matches: the header of most browsers also names Chrome and Safari
    (re.compile(r"\bEdg(e|A|iOS)?/"), "Edge"),
    (re.compile(r"\b(OPR|Opera)/"), "Opera"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\b(Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b(HeadlessChrome|Chrome|Chromium|CriOS)/"), "Chrome"),
    (re.compile(r"\bVersion/\S+ .*\bSafari/"), "Safari"),
)
_SYSTEMS = (
    (re.compile(r"\b(iPhone|iPod)\b"), "iOS"),
    (re.compile(r"\biPad\b"), "iPadOS"),
    (re.compile(r"\bAndroid\b"), "Android"),
    (re.compile(r"\bCrOS\b"), "ChromeOS"),
    (re.compile(r"\bWindows\b"), "Windows"),
    (re.compile(r"\b(Macintosh|Mac OS X)\b"), "macOS"),
    (re.compile(r"\bLinux\b"), "Linux"),
)
_PROGRAM = re.compile(r"([A-Za-z][\w.-]{0,39})/\d")
_UNKNOWN = "Unknown browser"
VIEW_PREFIX = "looks at "
"""Before the organization's name, in place of the header, in a session in which an operator views it."""


def describe(user_agent: str | None) -> str:
    """A name such as "Chrome on macOS", or "curl" of a program; "Unknown browser" for anything else.

    user_agent: as the client sent it, which may be anything
    """
    header = user_agent or ""
    browser, system = _find(_BROWSERS, header), _find(_SYSTEMS, header)
    if browser or system:
        return " on ".join(filter(None, (browser or _UNKNOWN, system)))
    program = _PROGRAM.match(header)
    return program[1] if program and program[1] != "Mozilla" else _UNKNOWN


def describe_session(user_agent: str | None) -> str:
    """As `describe`, of what a session has stored; of an operator's view of an organization "Viewing Acme"."""
    if user_agent and user_agent.startswith(VIEW_PREFIX):
        return f"Viewing {user_agent.removeprefix(VIEW_PREFIX)}"
    return describe(user_agent)


def _find(names: tuple[tuple[re.Pattern[str], str], ...], header: str) -> str:
    return next((name for pattern, name in names if pattern.search(header)), "")
