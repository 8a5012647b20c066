"""SMS segments, recipients, validation; pure."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email

MAX_SMS_LENGTH, MAX_EMAIL_LENGTH, MAX_SUBJECT_LENGTH = 1_600, 50_000, 200
_BASIC_PLANE = 0xFFFF
_E164 = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_EXTENSION = frozenset("\f^{}\\[~]|€")


def count_segments(text: str) -> int:
    """How many parts an SMS takes; what belongs together, such as an escape and its sign, is not split.

    source: 3GPP TS 23.038 and 23.040: 160 or 153 septets a part, 70 or 67 UTF-16 units where a character needs it
    """
    if all(sign in _GSM7 or sign in _GSM7_EXTENSION for sign in text):
        sizes, alone, joined = [2 if sign in _GSM7_EXTENSION else 1 for sign in text], 160, 153
    else:
        sizes, alone, joined = [2 if ord(sign) > _BASIC_PLANE else 1 for sign in text], 70, 67
    if sum(sizes) <= alone:
        return 1
    parts, left = 1, joined
    for size in sizes:
        if size > left:
            parts, left = parts + 1, joined
        left -= size
    return parts


@lru_cache(maxsize=4_096)
def parse_phone_number(text: str) -> str:
    """A telephone number in E.164 form.

    raises: ValueError when no telephone has it
    """
    if not _E164.fullmatch(text):
        raise ValueError("Not a number in E.164 form like +2348012345678.")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as cause:
        raise ValueError("Not a telephone number.") from cause
    if not phonenumbers.is_valid_number(number):
        raise ValueError("Not a telephone number that exists.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@lru_cache(maxsize=4_096)
def parse_email_address(text: str) -> str:
    """An e-mail address with its domain in lower case.

    raises: ValueError when it is none
    """
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError as cause:
        raise ValueError("Not an e-mail address.") from cause


def validation_problems(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a message of its type, by field; fields that are missing are not looked at."""
    found = []
    is_sms = body.get("type") == "sms"
    if "to" in body and "type" in body:
        try:
            parse_recipient(body["to"], body["type"])
        except ValueError as problem:
            found.append(("to", str(problem)))
    if is_sms and len(body.get("message", "")) > MAX_SMS_LENGTH:
        found.append(("message", f"An SMS holds at most {MAX_SMS_LENGTH} characters."))
    if is_sms and body.get("subject") is not None:
        found.append(("subject", "An SMS has no subject."))
    return found


def parse_recipient(text: str, channel: str) -> str:
    """A number or an address in its one form.

    channel: "sms" or "email"
    raises: ValueError
    """
    return parse_phone_number(text) if channel == "sms" else parse_email_address(text)
