"""The brand that customers see on pages, in mails and in documents: name, logo, colour, and where to turn to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, current_app
from werkzeug.local import LocalProxy

from saas_api.core import colors

DEFAULT_COLOR = "#4338ca"
"""`--accent` of app.css in the light theme, and of the favicon."""
MIN_CONTRAST = 4.5
"""Of text, as WCAG 2.2 asks for at level AA."""
DARKEST_LIGHT_GROUND = "#eef0f3"
"""The darkest ground of the light theme on which text has the brand's colour: `--sunken` of app.css."""
_LIGHTEST_DARK_GROUND, _DARK_TEXT, _WHITE = "#161b22", "#0d1117", "#ffffff"
_DARK_THEME_CONTRAST = 7
_EXTENSION = "brand"


@dataclass(frozen=True)
class Brand:
    """The brand of an installation, from the settings.

    color: "#rrggbb"; white text on it, and text of it on every light ground, have the contrast MIN_CONTRAST
    has_own_color: the colour is not that of the style sheet
    logo: an SVG or PNG file with the name in it; None for the built-in mark beside the name
    support_email, support_url, terms_url, privacy_url: "" where there is none
    """

    name: str
    color: str
    has_own_color: bool
    logo: Path | None
    support_email: str
    support_url: str
    terms_url: str
    privacy_url: str

    @property
    def logo_asset(self) -> str:
        """The name of the logo among static files; "" without a logo."""
        return f"logo{self.logo.suffix.lower()}" if self.logo else ""

    @property
    def support_href(self) -> str:
        """Where a link to support leads; "" when customers are told of none."""
        return self.support_url or (f"mailto:{self.support_email}" if self.support_email else "")

    @property
    def contact_support(self) -> str:
        """What to do, as a sentence such as "Contact support at help@example.com."."""
        contact = self.support_email or self.support_url
        return f"Contact support at {contact}." if contact else "Contact support."

    @property
    def links(self) -> list[tuple[str, str]]:
        """Name and URL of what footers lead to: terms, privacy policy and support, as far as they are set."""
        links = [("Terms", self.terms_url), ("Privacy", self.privacy_url), ("Support", self.support_href)]
        return [(name, url) for name, url in links if url]


def init_app(app: Flask) -> None:
    """Make the brand of an application's settings."""
    app.extensions[_EXTENSION] = from_settings(app.config)


def from_settings(settings: Mapping[str, Any]) -> Brand:
    """The brand that settings describe."""
    return Brand(
        name=settings["BRAND_NAME"],
        color=settings["BRAND_COLOR"] or DEFAULT_COLOR,
        has_own_color=settings["BRAND_COLOR"] not in (None, DEFAULT_COLOR),
        logo=Path(settings["BRAND_LOGO"]) if settings["BRAND_LOGO"] else None,
        support_email=settings["SUPPORT_EMAIL"] or "",
        support_url=settings["SUPPORT_URL"] or "",
        terms_url=settings["TERMS_URL"] or "",
        privacy_url=settings["PRIVACY_URL"] or "",
    )


def current_brand() -> Brand:
    """The brand of the running application."""
    brand: Brand = current_app.extensions[_EXTENSION]
    return brand


template_global = LocalProxy(current_brand)
"""`brand` in templates; an environment of templates may serve several applications."""


def is_legible(color: str) -> bool:
    """Whether white text on a colour, and text of it on every light ground, can be read."""
    return colors.contrast(color, DARKEST_LIGHT_GROUND) >= MIN_CONTRAST


def style_rules(color: str) -> str:
    """CSS that puts a legible colour in place of the accent of app.css, in both themes."""
    on_dark = _first(lambda share: colors.mix(color, _WHITE, share), _is_legible_in_the_dark)
    soft = _first(lambda share: colors.mix(color, _WHITE, 0.88 + share), lambda ground: _contrasts(color, ground))
    dark_soft = _first(
        lambda share: colors.mix(color, _LIGHTEST_DARK_GROUND, 0.7 + share), lambda ground: _contrasts(on_dark, ground)
    )
    return (
        "@layer base { :root { "
        f"--accent: light-dark({color}, {on_dark}); --accent-soft: light-dark({soft}, {dark_soft}); "
        f"--on-accent: light-dark({_WHITE}, {_DARK_TEXT}); "
        "} }\n"
    )


def _first(shade: Callable[[float], str], is_wanted: Callable[[str], bool]) -> str:
    """The first shade that is wanted, in steps of a hundredth; the ground itself, or white, always is."""
    return next(found for step in range(101) if is_wanted(found := shade(step / 100)))


def _is_legible_in_the_dark(color: str) -> bool:
    return colors.contrast(color, _LIGHTEST_DARK_GROUND) >= _DARK_THEME_CONTRAST


def _contrasts(text: str, ground: str) -> bool:
    return colors.contrast(text, ground) >= MIN_CONTRAST
