"""The common request and response of an accepted message: read and written by hand as the schemas do it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import marshmallow as ma
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saas_api.core import money
from saas_api.core.access import KeyMode
from saas_api.messages import common_message
from saas_api.messages.content import Channel, SmsEncoding
from saas_api.messages.models import MessageStatus
from saas_api.messages.schemas import AcceptedMessageOut, MessageIn

JSON = st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=1)
TEXTS = st.sampled_from(
    ["Hello", "", " \n", "a\nb", "a\x00b", "e\u0301", "\ud800", "x" * 200, "x" * 201, "x" * 1600, "x" * 1601, "\u00a0"]
)
ADDRESSES = st.sampled_from(
    ["+2348012345678", "+23480", " +2348012345678", "a@acme.example", "a@ACME.example", "a b@c", "@", "\u00e4@b.co"]
)
CHANNELS = st.sampled_from(["sms", "email", "SMS", "", Channel.SMS])
BODIES = st.fixed_dictionaries(
    {"to": ADDRESSES | TEXTS | JSON, "message": TEXTS | st.text() | JSON, "type": CHANNELS | JSON},
    optional={"subject": TEXTS | st.text() | JSON, "smart_encoding": st.booleans(), "other": JSON},
)


@given(BODIES | st.dictionaries(st.sampled_from(["to", "message", "type"]), TEXTS) | JSON)
@example({"to": "+2348012345678", "message": "Hello", "type": "sms"})
@example({"to": "a@ACME.example", "message": "e\u0301\n", "type": "email", "subject": "e\u0301"})
@settings(max_examples=100, deadline=None)
def test_body_read_by_hand_is_what_the_schema_loads(body: Any) -> None:
    common = common_message.load(body)
    if common is not None:
        assert common == MessageIn().load(body)


@pytest.mark.parametrize(
    "body",
    [
        {"to": "+2348012345678", "message": "Your code is 123456.", "type": "sms"},
        {"to": "alice@acme.example", "message": "Hello,\n\nÄ\u2026\n", "type": "email", "subject": "Code"},
        {"to": "alice@acme.example", "message": "x" * 50_000, "type": "email"},
    ],
)
def test_common_body_is_read_by_hand(body: dict[str, Any]) -> None:
    assert common_message.load(body) == MessageIn().load(body)


@pytest.mark.parametrize(
    "body",
    [
        {"to": "+2348012345678", "message": "x" * 1601, "type": "sms"},
        {"to": "+2348012345678", "message": "x", "type": "sms", "subject": "x"},
        {"to": "+2348012345678", "message": "x\x00", "type": "sms"},
        {"to": "+2348012345678", "message": "x", "type": "fax"},
        {"to": "2348012345678", "message": "x", "type": "sms"},
        {"to": "alice@acme.example", "message": "x", "type": "email", "subject": "a\nb"},
        {"to": "+2348012345678", "message": "x"},
    ],
)
def test_wrong_body_is_left_to_the_schema(body: dict[str, Any]) -> None:
    assert common_message.load(body) is None
    with pytest.raises(ma.ValidationError):
        MessageIn().load(body)


@given(
    st.fixed_dictionaries(
        {
            "message_id": st.uuids(),
            "to": st.text(),
            "type": st.sampled_from(Channel),
            "status": st.just(MessageStatus.QUEUED),
            "segments": st.integers(1, 32),
            "encoding": st.none() | st.sampled_from(SmsEncoding),
            "non_gsm_character": st.none() | st.characters(),
            "cost": st.decimals(0, 1000, places=6).map(lambda cost: money.format_unit_price(Decimal(cost))),
            "currency": st.just("USD"),
            "usage_recorded": st.booleans(),
            "mode": st.sampled_from(KeyMode),
            "organization_id": st.uuids(),
            "created_at": st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds + 0.5, UTC)),
        }
    )
)
@settings(max_examples=50, deadline=None)
def test_response_written_by_hand_is_what_the_schema_dumps(acceptance: dict[str, Any]) -> None:
    by_hand, by_schema = common_message.dump(acceptance), AcceptedMessageOut().dump(acceptance)
    assert orjson.loads(orjson.dumps(by_hand)) == orjson.loads(orjson.dumps(by_schema))
