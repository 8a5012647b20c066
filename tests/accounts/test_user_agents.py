"""Names of browsers, from the header that they send."""

import pytest

from saas_api.accounts import user_agents

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
MAC, WINDOWS = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X)"
IPAD, MOBILE_WEBKIT = "Mozilla/5.0 (iPad; CPU OS 18_1 like Mac OS X)", "AppleWebKit/605.1.15 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"{MAC} {WEBKIT} Chrome/131.0.0.0 Safari/537.36", "Chrome on macOS"),
        (f"{MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15", "Safari on macOS"),
        (f"{WINDOWS} {WEBKIT} Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0", "Edge on Windows"),
        (f"{WINDOWS} {WEBKIT} Chrome/130.0.0.0 Safari/537.36 OPR/115.0.0.0", "Opera on Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0", "Firefox on Linux"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/131.0.0.0 Safari/537.36", "Chrome on ChromeOS"),
        (f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/131.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
        (f"{IPHONE} {MOBILE_WEBKIT} Version/18.1 Mobile/15E148 Safari/604.1", "Safari on iOS"),
        (f"{IPAD} {MOBILE_WEBKIT} CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1", "Chrome on iPadOS"),
        ("curl/8.5.0", "curl"),
        ("python-requests/2.32.3", "python-requests"),
        ("Mozilla/5.0", "Unknown browser"),
        ("<b>Win a prize</b> https://prize.example/1", "Unknown browser"),
        ("", "Unknown browser"),
        (None, "Unknown browser"),
    ],
)
def test_browser_and_system_are_named(header: str | None, name: str) -> None:
    assert user_agents.describe(header) == name


def test_view_of_an_operator_is_named_in_a_session_and_not_in_a_mail() -> None:
    assert user_agents.describe_session("looks at Acme") == "Viewing Acme"
    assert user_agents.describe("looks at Acme") == "Unknown browser"
