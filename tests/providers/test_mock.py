"""The mock: one final outcome for an id, however often it is asked."""

from decimal import Decimal

import pytest
from flask import Flask

from saas_api.core import ids
from saas_api.providers import selection
from saas_api.providers.messages import OutboundMessage, SendResult


def item(recipient: str, channel: str = "sms") -> OutboundMessage:
    return OutboundMessage(ids.new_id(), channel, recipient, None, "Hello", 1)


def send(*items: OutboundMessage) -> list[SendResult]:
    results = [pair for group in selection.message_provider("sms", "live").send_many(items) for pair in group]
    by_item = {sent.id: outcome for sent, outcome in results}
    assert len(by_item) == len(results) == len(items)
    return [by_item[one.id] for one in items]


@pytest.mark.parametrize(
    ("recipient", "kinds"),
    [
        ("+2348012345678", ["delivered", "delivered"]),
        ("+15005550001", ["rejected", "rejected"]),
        ("+15005550003", ["retry", "retry", "delivered", "delivered"]),
        ("+15005550004", ["retry"] * 4),
        ("+15005550007", ["retry", "delivered"]),
        ("+15005550008", ["retry", "delivered"]),
    ],
)
def test_magic_numbers_answer_as_promised(context: Flask, recipient: str, kinds: list[str]) -> None:
    one = item(recipient)
    assert [send(one)[0].kind for _ in kinds] == kinds


def test_mail_has_its_own_magic(context: Flask) -> None:
    bounced, fine = send(item("bounce@simulator.example", "email"), item("bounce@customer.example", "email"))
    assert (bounced.kind, bounced.error_code, fine.kind) == ("rejected", "bounced", "delivered")


def test_the_throttled_say_when_to_come_back(context: Flask) -> None:
    assert send(item("+15005550008"))[0].retry_after == 5


def test_the_slow_hold_up_nobody(context: Flask) -> None:
    slow, quick = item("+15005550005"), item("+2348012345678")
    groups = selection.message_provider("sms", "live").send_many([slow, quick])
    assert [sent.id for sent, _ in next(groups)] == [quick.id]
    assert [sent.id for sent, _ in next(groups)] == [slow.id]


def test_a_failure_rate_picks_by_id_not_by_chance(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "MOCK_FAILURE_RATE", Decimal("0.5"))
    items = [item("+2348012345678") for _ in range(200)]
    first = [outcome.kind for outcome in send(*items)]
    assert first == [outcome.kind for outcome in send(*items)]
    assert 60 < first.count("delivered") < 140


def test_nobody_carries_a_channel_that_does_not_exist() -> None:
    with pytest.raises(LookupError):
        selection.message_provider("fax", "live")
