"""Fields reject malformed values."""

import unicodedata

import marshmallow as ma
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saas_api.core.fields import DateField, DisplayName, Email, Name, Timestamp, has_controls, normalize_email


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", "2026-03-01T00:00:00", "soon", 5, None]
)
def test_time_outside_the_calendar_is_rejected(text: object) -> None:
    with pytest.raises(ma.ValidationError):
        Timestamp().deserialize(text)


@pytest.mark.parametrize("text", ["2026-1-1", "2026-02-30", "20260101", "2026-01-01T00:00:00Z", 20260101])
def test_date_requires_year_month_and_day(text: object) -> None:
    with pytest.raises(ma.ValidationError):
        DateField().deserialize(text)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("Alice@ACME.example", "alice@acme.example"),
        (" alice@acme.example\n", "alice@acme.example"),
        ("\u0130pek@acme.example", "i\u0307pek@acme.example"),
        ("\u039f\u0394\u039f\u03a3@acme.example", "\u03bf\u03b4\u03bf\u03c2@acme.example"),
        ("a\u0308@acme.example", "\u00e4@acme.example"),
        ("alice@xn--bcher-kva.example", "alice@b\u00fccher.example"),
    ],
)
def test_address_has_one_form(text: str, stored: str) -> None:
    """A8: PostgreSQL and Python disagreed about the lower case of some letters."""
    assert Email().deserialize(text) == normalize_email(stored) == stored


@settings(max_examples=50)
@given(st.text(st.characters(categories=("L", "M", "Nd")), min_size=1, max_size=10))
def test_form_of_an_address_is_final(local_part: str) -> None:
    try:
        address = normalize_email(f"{local_part}@acme.example")
    except ValueError:
        return
    assert normalize_email(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "Acme\u202egnp.exe",
        "Ac\u200bme",
        "\ufeffAcme",
        "Acme\u2066",
        "Ac\u00adme",
        "a\u200db",
        "Ac\nme",
        "Ac\u0007me",
        " ",
    ],
)
def test_name_without_invisible_characters(text: str) -> None:
    """A15: bidirectional and zero-width characters passed in names."""
    with pytest.raises(ma.ValidationError):
        Name().deserialize(text)


@pytest.mark.parametrize(
    "text", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f4bb", "Zo\u00eb"]
)
def test_name_keeps_joiners_within_words_and_emoji(text: str) -> None:
    assert Name().deserialize(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        "Pay at https://evil.example",
        "Bill: ftp://x",
        "www.evil.example",
        "Win at evil.example/now",
        "EVIL.COM",
        "a" * 81,
    ],
)
def test_display_name_without_web_addresses(text: str) -> None:
    """R9: mails carried the web address in a name to strangers."""
    with pytest.raises(ma.ValidationError):
        DisplayName().deserialize(text)


@pytest.mark.parametrize(
    "text", ["Acme Inc.", "U.S.A. Traders", "St.Gallen AG", "Dr.M\u00fcller", "A/B: test", "a" * 80]
)
def test_display_name_with_dots(text: str) -> None:
    assert DisplayName().deserialize(text) == text


def test_controls_are_two_categories_of_unicode() -> None:
    characters = list(map(chr, range(0x110000)))
    controls = {character for character in characters if unicodedata.category(character) in ("Cc", "Cs")}
    assert {character for character in characters if has_controls(character, is_multiline=False)} == controls
    allowed = {character for character in controls if not has_controls(character, is_multiline=True)}
    assert allowed == set("\n\r\t")
