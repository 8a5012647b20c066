"""Messages without a database: segments, recipients, and when a failed try is repeated."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from saas_api.core.ids import wire_id

LONGEST_SMS, LONGEST_EMAIL, LONGEST_SUBJECT = 1_600, 50_000, 200
LAST_ATTEMPT = 8
POISONED_AFTER = 10
_RETRY_SECONDS = (5, 30, 120, 600, 1_800, 3_600, 7_200)
_LONGEST_ASKED_SECONDS = 3_600
_BASIC_PLANE = 0xFFFF
_E164 = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_EXTENSION = frozenset("\f^{}\\[~]|€")


@dataclass(frozen=True)
class State:
    """A message as endpoints are told of it; its text is not among it.

    channel: "sms" or "email"
    attempts: calls of the provider that were answered
    """

    id: UUID
    channel: str
    recipient: str
    segments: int
    mode: str
    status: str
    attempts: int = 0
    error_code: str | None = None


def event_data(state: State) -> dict[str, Any]:
    """The `data` of an event about a message."""
    return {
        "object": "message",
        "message_id": wire_id("msg", state.id),
        "to": state.recipient,
        "type": state.channel,
        "status": state.status,
        "segments": state.segments,
        "mode": state.mode,
        "attempts": state.attempts,
        "error_code": state.error_code,
    }


def segments(text: str) -> int:
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
def read_number(text: str) -> str:
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
def read_address(text: str) -> str:
    """An e-mail address with its domain in lower case.

    raises: ValueError when it is none
    """
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError as cause:
        raise ValueError("Not an e-mail address.") from cause


def problems(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a message of its type, by field; fields that are missing are not looked at."""
    found = []
    is_sms = body.get("type") == "sms"
    if "to" in body and "type" in body:
        try:
            read_recipient(body["to"], body["type"])
        except ValueError as problem:
            found.append(("to", str(problem)))
    if is_sms and len(body.get("message", "")) > LONGEST_SMS:
        found.append(("message", f"An SMS holds at most {LONGEST_SMS} characters."))
    if is_sms and body.get("subject") is not None:
        found.append(("subject", "An SMS has no subject."))
    return found


def read_recipient(text: str, channel: str) -> str:
    """A number or an address in its one form.

    channel: "sms" or "email"
    raises: ValueError
    """
    return read_number(text) if channel == "sms" else read_address(text)


def retry_delay(attempt: int, asked_seconds: int | None) -> timedelta:
    """Time until the next try.

    attempt: the one that failed, from 1
    asked_seconds: what the provider asked for, honoured up to an hour
    """
    planned = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1]
    seconds = planned * random.uniform(0.8, 1.2)  # noqa: S311 - spreads tries, guards nothing
    if asked_seconds is not None:
        seconds = min(max(asked_seconds, 1), _LONGEST_ASKED_SECONDS)
    return timedelta(seconds=seconds)
