"""A mock message provider. Test recipients decide the outcome, and its own table records every call."""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from saas_api.core.db import tenancy, types
from saas_api.core.settings import setting
from saas_api.providers.messages import OutboundMessage, SendResult

CHANNELS = frozenset({"sms", "email"})
_NUMBER, _DOMAIN = "+1500555", "@simulator.example"
_SLOW_SECONDS = 2.0
_FLAKY_CALLS, _THROTTLED_SECONDS = 2, 5


@dataclass(frozen=True)
class _MockBehavior:
    error_code: str | None = None
    failing_calls: int = 0
    retry_after: int | None = None
    seconds: float = 0.0
    is_always_down: bool = False


_ALWAYS_DELIVERED = _MockBehavior()
_BEHAVIOR_BY_RECIPIENT = {
    ("sms", "0001"): _MockBehavior("invalid_recipient"),
    ("sms", "0002"): _MockBehavior("unreachable"),
    ("sms", "0003"): _MockBehavior(failing_calls=_FLAKY_CALLS),
    ("sms", "0004"): _MockBehavior(is_always_down=True),
    ("sms", "0005"): _MockBehavior(seconds=_SLOW_SECONDS),
    ("sms", "0007"): _MockBehavior(failing_calls=1),
    ("sms", "0008"): _MockBehavior(failing_calls=1, retry_after=_THROTTLED_SECONDS),
    ("sms", "0009"): _MockBehavior("opted_out"),
    ("email", "invalid"): _MockBehavior("invalid_recipient"),
    ("email", "bounce"): _MockBehavior("bounced"),
    ("email", "flaky"): _MockBehavior(failing_calls=_FLAKY_CALLS),
    ("email", "down"): _MockBehavior(is_always_down=True),
    ("email", "slow"): _MockBehavior(seconds=_SLOW_SECONDS),
    ("email", "timeout"): _MockBehavior(failing_calls=1),
    ("email", "throttled"): _MockBehavior(failing_calls=1, retry_after=_THROTTLED_SECONDS),
    ("email", "optout"): _MockBehavior("opted_out"),
}
_RECORD_CALLS = sa.text("""
INSERT INTO mock_sends AS s (message_id, channel, recipient, outcome)
SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:channels AS text[]), CAST(:recipients AS text[]),
                     CAST(:outcomes AS text[]))
ON CONFLICT (message_id) DO UPDATE SET calls = s.calls + 1 RETURNING message_id, calls
""")


class MockMessageProvider:
    """A provider of SMS and email that delivers nothing."""

    def send_many(self, items: Sequence[OutboundMessage]) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
        """Yield the results of all messages, those without a delay first."""
        behaviors = {item.id: _behavior(item) for item in items}
        calls = _store_outcome(items, behaviors)
        time.sleep(setting("MOCK_LATENCY_MS") / 1000)
        for seconds in sorted({behavior.seconds for behavior in behaviors.values()}):
            time.sleep(seconds)
            due = [item for item in items if behaviors[item.id].seconds == seconds]
            yield [(item, _outcome(item, behaviors[item.id], calls[item.id])) for item in due]


def _behavior(item: OutboundMessage) -> _MockBehavior:
    name = ""
    if item.channel == "sms" and item.recipient.startswith(_NUMBER):
        name = item.recipient.removeprefix(_NUMBER)
    elif item.channel == "email" and item.recipient.endswith(_DOMAIN):
        name = item.recipient.removesuffix(_DOMAIN)
    behavior = _BEHAVIOR_BY_RECIPIENT.get((item.channel, name))
    if behavior is None and _fails_randomly(item):
        return _MockBehavior("unreachable")
    return behavior or _ALWAYS_DELIVERED


def _fails_randomly(item: OutboundMessage) -> bool:
    rate: Decimal = setting("MOCK_FAILURE_RATE")
    return zlib.crc32(item.id.bytes) % 1_000_000 < rate * 1_000_000


def _store_outcome(items: Sequence[OutboundMessage], behaviors: dict[UUID, _MockBehavior]) -> dict[UUID, int]:
    with tenancy.system_session("providers.mock") as session:
        rows = session.execute(
            _RECORD_CALLS,
            {
                "ids": types.uuid_array([item.id for item in items]),
                "channels": [item.channel for item in items],
                "recipients": [item.recipient for item in items],
                "outcomes": [behaviors[item.id].error_code or "delivered" for item in items],
            },
        )
        return {row.message_id: row.calls for row in rows}


def _outcome(item: OutboundMessage, behavior: _MockBehavior, calls: int) -> SendResult:
    if behavior.error_code:
        return SendResult("rejected", behavior.error_code)
    if behavior.is_always_down or calls <= behavior.failing_calls:
        return SendResult("retry", "provider_unavailable", retry_after=behavior.retry_after)
    return SendResult("delivered", reference=f"mock-{item.id.hex}")
