"""The colour and the logo of a brand: what is legible, and what may be served."""

import dataclasses
import html
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from saas_api.accounts import organizations
from saas_api.accounts.audit import Actor
from saas_api.core import brand, colors, ids
from saas_api.core.brand import Brand
from saas_api.core.db import tenancy
from saas_api.mail import mails
from saas_api.settings.logo import MAX_LOGO_BYTES, logo_problem
from tests.support.accounts import User
from tests.support.mail import CONTEXTS, links
from tests.support.pages import Browser

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'
HEX_COLORS = st.integers(0, 0xFFFFFF).map("#{:06x}".format)


@pytest.fixture
def acme(app: Flask, tmp_path: Path) -> Iterator[Brand]:
    """The application with a brand of its own."""
    logo = tmp_path / "acme.svg"
    logo.write_text(SVG.format('<path d="M0 0h9v9H0z"/>'), encoding="utf-8")
    settings = {
        "BRAND_NAME": "Acme & Söhne",
        "BRAND_COLOR": "#0b6e4f",
        "BRAND_LOGO": logo,
        "SUPPORT_EMAIL": "help@acme.example",
        "SUPPORT_URL": None,
        "TERMS_URL": "https://acme.example/terms",
        "PRIVACY_URL": "https://acme.example/privacy",
    }
    own, assets = brand.from_settings(settings), app.extensions.pop("assets", {})
    default, app.extensions["brand"] = app.extensions["brand"], own
    yield own
    app.extensions["brand"] = default
    app.extensions["assets"] = assets


def test_contrast_is_that_of_wcag() -> None:
    assert colors.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert colors.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert colors.mix("#000000", "#ffffff", 0.5) == "#808080"


@given(HEX_COLORS)
def test_every_accepted_colour_is_legible_in_both_themes(color: str) -> None:
    if not brand.is_legible(color):
        return
    rules = brand.style_rules(color)
    pairs = [part.partition(")")[0].split(", ") for part in rules.split("light-dark(")[1:]]
    (accent, dark_accent), (soft, dark_soft), (on_accent, dark_on_accent) = pairs
    assert accent == color
    for text, ground in [
        (accent, soft),
        (accent, brand.DARKEST_LIGHT_GROUND),
        (on_accent, accent),
        (dark_accent, dark_soft),
        (dark_accent, "#161b22"),
        (dark_on_accent, dark_accent),
    ]:
        assert colors.contrast(text, ground) >= brand.MIN_CONTRAST, (text, ground)


@pytest.mark.parametrize(
    "content",
    [
        '<path d="M0 0h9v9H0z" fill="url(#g)"/><use href="#a"/><image xlink:href="data:image/png;base64,AA"/>',
        "<style>path { fill: #123456 }</style>",
    ],
)
def test_harmless_svg_is_a_logo(tmp_path: Path, content: str) -> None:
    path = tmp_path / "logo.svg"
    path.write_text(SVG.format(content), encoding="utf-8")
    assert logo_problem(path) == ""


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        "<foreignObject/>",
        '<path onload="alert(1)"/>',
        '<a href="javascript:alert(1)"/>',
        '<image xlink:href="https://elsewhere.example/a.png"/>',
        '<use href="other.svg#a"/>',
        '<image href="data:image/svg+xml,x"/>',
        "<style>@import 'x.css';</style>",
        '<path style="fill: url(https://elsewhere.example/a)"/>',
    ],
)
def test_svg_that_could_run_or_load_something_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "logo.svg"
    path.write_text(SVG.format(content), encoding="utf-8")
    assert "script" in logo_problem(path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("logo.png", PNG, ""),
        ("logo.PNG", PNG, ""),
        ("logo.png", b"GIF89a", "not a PNG"),
        ("logo.png", PNG + bytes(MAX_LOGO_BYTES), "larger"),
        ("logo.gif", b"GIF89a", "end with"),
        ("logo.svg", b"<html/>", "not an SVG"),
        ("logo.svg", b"<svg", "not an SVG"),
        ("logo.svg", b'<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', "document type"),
    ],
)
def test_logo_is_a_small_png_or_svg(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = logo_problem(path)
    assert problem in found
    assert bool(found) == bool(problem)


def test_unreadable_logo_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in logo_problem(tmp_path / "none.svg")


def test_pages_show_the_brand(client: FlaskClient, acme: Brand) -> None:
    page = html.unescape(client.get("/login").text)
    assert "· Acme & Söhne</title>" in page
    assert 'src="/static/logo.svg?v=' in page
    assert 'alt="Acme & Söhne"' in page
    for address in (acme.terms_url, acme.privacy_url, "mailto:help@acme.example"):
        assert f'<a href="{address}">' in page
    assert "saas-api" not in page


def test_suspended_organization_is_told_whom_to_ask(app: Flask, alice: User, acme: Brand) -> None:
    """R15: "Contact support." named no address."""
    with app.app_context(), tenancy.system_session("admin.act") as session:
        actor = Actor("system", "test")
        organizations.suspend(session, ids.parse_id("org", alice.organization_id), actor, "unpaid for long")
    page = Browser(app, alice).open("/dashboard").text
    assert "Contact support at help@acme.example." in page
    assert page.count('<a href="mailto:help@acme.example">') == 2, "in the banner and in the footer"
    assert f'<a href="{acme.terms_url}">Terms</a>' in page


def test_colour_is_that_of_style_sheet_and_icon(client: FlaskClient, acme: Brand) -> None:
    assert b"--accent: light-dark(#0b6e4f," in client.get("/static/app.css").data.splitlines()[-1]
    icon = client.get("/static/favicon.svg").text
    assert "#0b6e4f" in icon
    assert brand.DEFAULT_COLOR not in icon


def test_default_brand_adds_nothing_to_the_style_sheet(app: Flask, client: FlaskClient) -> None:
    css = client.get("/static/app.css").data
    assert css == (Path(app.root_path) / "static" / "app.css").read_bytes()
    assert f"--accent: light-dark({brand.DEFAULT_COLOR}," in css.decode()
    assert f"--sunken: light-dark({brand.DARKEST_LIGHT_GROUND}," in css.decode()
    assert client.get("/static/logo.svg").status_code == 404


def test_logo_opened_by_itself_can_run_nothing(client: FlaskClient, acme: Brand) -> None:
    response = client.get("/static/logo.svg")
    assert response.mimetype == "image/svg+xml"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert "script-src" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("template", ["welcome", "invitation", "invoice_ready"])
def test_mails_show_the_brand(app: Flask, acme: Brand, template: str) -> None:
    with app.app_context():
        subject, text, page = mails.render(template, CONTEXTS[template])
    assert "saas-api" not in subject + text + page
    assert "Acme & Söhne" in text
    assert "Acme &amp; Söhne" in page
    assert "background:#0b6e4f" in page
    assert "Support: help@acme.example\n" in text
    assert {acme.terms_url, acme.privacy_url} < links(text)
    assert links(text) == {html.unescape(link) for link in links(page)}


def test_contact_is_the_address_of_support() -> None:
    shown = Brand("Acme", brand.DEFAULT_COLOR, False, None, "help@acme.example", "https://acme.example/help", "", "")
    assert shown.contact_support == "Contact support at help@acme.example."
    assert shown.support_href == "https://acme.example/help"
    without = dataclasses.replace(shown, support_email="", support_url="")
    assert (without.contact_support, without.support_href) == ("Contact support.", "")
