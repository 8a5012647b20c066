"""The common request and response of POST /messages/send, read and written by hand.

For them marshmallow costs as much as the whole gate. What is plainly right is done here, as `MessageIn` and
`AcceptedMessageOut` do it; everything else, and so every error, is left to those schemas.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

from saas_api.core import clock, fields, ids
from saas_api.messages import content
from saas_api.messages.content import MAX_EMAIL_LENGTH, MAX_SMS_LENGTH, MAX_SUBJECT_LENGTH, Channel

MAX_ADDRESS_LENGTH = 254
_REQUIRED = frozenset({"to", "message", "type"})
_FIELDS = _REQUIRED | {"subject"}
_MAX_LENGTHS: Mapping[Any, int] = {"sms": MAX_SMS_LENGTH, "email": MAX_EMAIL_LENGTH}


def load(body: Any) -> dict[str, Any] | None:
    """What `MessageIn` loads from a body without `smart_encoding`; None for one that the schema has to look at."""
    if type(body) is not dict or not _REQUIRED <= body.keys() <= _FIELDS:
        return None
    channel, to, subject = body["type"], body["to"], body.get("subject")
    maximum = _MAX_LENGTHS.get(channel) if type(channel) is str else None
    text = None if maximum is None else _clean_text(body["message"], maximum, is_multiline=True)
    if text is None or not _is_plain_address(to):
        return None
    if "subject" in body:
        subject = _clean_text(subject, MAX_SUBJECT_LENGTH, is_multiline=False)
        if subject is None or channel == Channel.SMS:
            return None
    try:
        recipient = content.parse_recipient(to, channel)
    except ValueError:
        return None
    return {"to": recipient, "message": text, "type": channel, "subject": subject}


def dump(acceptance: Mapping[str, Any]) -> dict[str, Any]:
    """What `AcceptedMessageOut` dumps: its texts, numbers and booleans are those of the response already."""
    return {
        **acceptance,
        "message_id": ids.format_id("msg", acceptance["message_id"]),
        "organization_id": ids.format_id("org", acceptance["organization_id"]),
        "created_at": clock.format_rfc3339(acceptance["created_at"]),
    }


def _clean_text(value: Any, maximum: int, *, is_multiline: bool) -> str | None:
    """A text as `fields.Text` loads it."""
    if type(value) is not str:
        return None
    text = unicodedata.normalize("NFC", value)
    if not 0 < len(text) <= maximum or text.isspace() or fields.has_controls(text, is_multiline=is_multiline):
        return None
    return text


def _is_plain_address(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_ADDRESS_LENGTH and value.isascii() and value.isprintable()
