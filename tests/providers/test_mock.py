"""The mock message provider: an id has one final result, however often it is sent."""

from decimal import Decimal

import pytest
from flask import Flask

from saas_api.core import ids
from saas_api.providers import selection
from saas_api.providers.messages import OutboundMessage, SendResult


def build_message(recipient: str, channel: str = "sms") -> OutboundMessage:
    return OutboundMessage(ids.new_id(), channel, recipient, None, "Hello", 1)


def send(*messages: OutboundMessage) -> list[SendResult]:
    results = [pair for group in selection.message_provider("sms", "live").send_many(messages) for pair in group]
    results_by_id = {sent.id: outcome for sent, outcome in results}
    assert len(results_by_id) == len(results) == len(messages)
    return [results_by_id[message.id] for message in messages]


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
def test_test_number_decides_the_results_of_repeated_calls(context: Flask, recipient: str, kinds: list[str]) -> None:
    message = build_message(recipient)
    assert [send(message)[0].kind for _ in kinds] == kinds


def test_test_address_decides_the_result_of_an_email(context: Flask) -> None:
    bounced, fine = send(
        build_message("bounce@simulator.example", "email"), build_message("bounce@customer.example", "email")
    )
    assert (bounced.kind, bounced.error_code, fine.kind) == ("rejected", "bounced", "delivered")


def test_throttled_number_asks_for_a_delay(context: Flask) -> None:
    assert send(build_message("+15005550008"))[0].retry_after == 5


def test_slow_message_does_not_delay_the_others(context: Flask) -> None:
    slow, quick = build_message("+15005550005"), build_message("+2348012345678")
    groups = selection.message_provider("sms", "live").send_many([slow, quick])
    assert [sent.id for sent, _ in next(groups)] == [quick.id]
    assert [sent.id for sent, _ in next(groups)] == [slow.id]


def test_failure_rate_picks_messages_by_id(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "MOCK_FAILURE_RATE", Decimal("0.5"))
    messages = [build_message("+2348012345678") for _ in range(200)]
    first = [outcome.kind for outcome in send(*messages)]
    assert first == [outcome.kind for outcome in send(*messages)]
    assert 60 < first.count("delivered") < 140


def test_unknown_channel_has_no_provider() -> None:
    with pytest.raises(LookupError):
        selection.message_provider("fax", "live")
