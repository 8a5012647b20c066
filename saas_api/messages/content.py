"""Segments, recipients and validation of messages; pure."""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email

MAX_SMS_LENGTH, MAX_EMAIL_LENGTH, MAX_SUBJECT_LENGTH = 1_600, 50_000, 200
_E164 = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM7_TWO_UNITS = re.compile(f"[{re.escape(''.join(sorted(_GSM7_EXTENSION)))}]")
_NOT_GSM7 = re.compile(f"[^{re.escape(''.join(sorted(_GSM7 | _GSM7_EXTENSION)))}]")
_UCS2_TWO_UNITS = re.compile("[\U00010000-\U0010ffff]")
"""Patterns find a character in a long text many times faster than a loop over it."""
_TYPOGRAPHIC = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u202f\u205f\u3000", " "),
        **{chr(code): " " for code in range(0x2000, 0x200B)},
        "\u2026": "...",
        "\u2022": "*",
    }
)
TOO_LONG = f"An SMS holds at most {MAX_SMS_LENGTH} characters."


class Channel(StrEnum):
    """Way to a recipient."""

    SMS = "sms"
    EMAIL = "email"


class SmsEncoding(StrEnum):
    """Alphabet of an SMS; one character outside GSM-7 puts the whole text into UCS-2."""

    GSM7 = "GSM-7"
    UCS2 = "UCS-2"


def find_non_gsm_character(text: str) -> str | None:
    """Return the first character that is not in the GSM alphabet, or None."""
    found = _NOT_GSM7.search(text)
    return found[0] if found else None


def sms_encoding(text: str) -> SmsEncoding:
    """Return the encoding of an SMS."""
    return SmsEncoding.GSM7 if find_non_gsm_character(text) is None else SmsEncoding.UCS2


def replace_typographic_characters(text: str) -> str:
    """Return a text with quotes, dashes, ellipses and spaces of the GSM alphabet in place of typographic ones."""
    return text.translate(_TYPOGRAPHIC)


def count_segments(text: str) -> int:
    """Return the number of segments of an SMS. A character of two units is not split between segments.

    source: 3GPP TS 23.038 and 23.040: 160 septets, or 153 in each of several segments; 70 and 67 UTF-16 units when a
    character is not in the GSM alphabet
    """
    is_gsm = find_non_gsm_character(text) is None
    single, multiple, two_units = (160, 153, _GSM7_TWO_UNITS) if is_gsm else (70, 67, _UCS2_TWO_UNITS)
    units = len(text) + len(two_units.findall(text))
    if units <= single:
        return 1
    if units == len(text):
        return -(-units // multiple)
    segments, free = 1, multiple
    for character in text:
        size = 2 if two_units.match(character) else 1
        if size > free:
            segments, free = segments + 1, multiple
        free -= size
    return segments


@lru_cache(maxsize=4_096)
def parse_phone_number(text: str) -> str:
    """Return a telephone number in E.164 form.

    raises: ValueError for a text that is no valid number
    """
    if not _E164.fullmatch(text):
        raise ValueError("Not a number in E.164 form like +2348012345678 (in a URL, + is %2B).")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as cause:
        raise ValueError("Not a telephone number.") from cause
    if not phonenumbers.is_valid_number(number):
        raise ValueError("Not a telephone number that exists.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@lru_cache(maxsize=4_096)
def parse_email_address(text: str) -> str:
    """Return an email address with its domain in lower case.

    raises: ValueError for a text that is no address
    """
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError as cause:
        raise ValueError("Not an email address.") from cause


def validation_problems(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return field and reason of each rule that a message breaks; absent fields are not checked."""
    problems = []
    is_sms = body.get("type") == Channel.SMS
    if "to" in body and "type" in body:
        try:
            parse_recipient(body["to"], body["type"])
        except ValueError as error:
            problems.append(("to", str(error)))
    if is_sms and len(body.get("message", "")) > MAX_SMS_LENGTH:
        problems.append(("message", TOO_LONG))
    if is_sms and body.get("subject") is not None:
        problems.append(("subject", "An SMS has no subject."))
    return problems


def parse_recipient(text: str, channel: str) -> str:
    """Return a recipient in its canonical form.

    raises: ValueError
    """
    return parse_phone_number(text) if channel == Channel.SMS else parse_email_address(text)
