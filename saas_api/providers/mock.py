"""The mock: an outside party with a memory of its own, that answers by magic recipients and never sends anything.

One id has one final outcome for ever; how often it was asked is what the tests count.
"""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.providers import Item, Outcome

CHANNELS = frozenset({"sms", "email"})
_NUMBER, _DOMAIN = "+1500555", "@simulator.example"
_SLOW_SECONDS = 2.0
_FLAKY_CALLS, _THROTTLED_SECONDS = 2, 5


@dataclass(frozen=True)
class _Behaviour:
    error_code: str | None = None
    failing_calls: int = 0
    retry_after: int | None = None
    seconds: float = 0.0
    is_always_down: bool = False


_DELIVERED = _Behaviour()
_BEHAVIOURS = {
    ("sms", "0001"): _Behaviour("invalid_recipient"),
    ("sms", "0002"): _Behaviour("unreachable"),
    ("sms", "0003"): _Behaviour(failing_calls=_FLAKY_CALLS),
    ("sms", "0004"): _Behaviour(is_always_down=True),
    ("sms", "0005"): _Behaviour(seconds=_SLOW_SECONDS),
    ("sms", "0007"): _Behaviour(failing_calls=1),
    ("sms", "0008"): _Behaviour(failing_calls=1, retry_after=_THROTTLED_SECONDS),
    ("sms", "0009"): _Behaviour("opted_out"),
    ("email", "invalid"): _Behaviour("invalid_recipient"),
    ("email", "bounce"): _Behaviour("bounced"),
    ("email", "flaky"): _Behaviour(failing_calls=_FLAKY_CALLS),
    ("email", "down"): _Behaviour(is_always_down=True),
    ("email", "slow"): _Behaviour(seconds=_SLOW_SECONDS),
    ("email", "timeout"): _Behaviour(failing_calls=1),
    ("email", "throttled"): _Behaviour(failing_calls=1, retry_after=_THROTTLED_SECONDS),
    ("email", "optout"): _Behaviour("opted_out"),
}
_REMEMBER = sa.text("""
INSERT INTO mock_sends AS s (message_id, channel, recipient, outcome)
SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:channels AS text[]), CAST(:recipients AS text[]),
                     CAST(:outcomes AS text[]))
ON CONFLICT (message_id) DO UPDATE SET calls = s.calls + 1 RETURNING message_id, calls
""")


class Mock:
    """Carries SMS and e-mail to nobody."""

    def send_many(self, items: Sequence[Item]) -> Iterator[list[tuple[Item, Outcome]]]:
        """Answer for every item, the quick ones first."""
        behaviours = {item.id: _behaviour(item) for item in items}
        calls = _remember(items, behaviours)
        time.sleep(setting("MOCK_LATENCY_MS") / 1000)
        for seconds in sorted({behaviour.seconds for behaviour in behaviours.values()}):
            time.sleep(seconds)
            chosen = [item for item in items if behaviours[item.id].seconds == seconds]
            yield [(item, _outcome(item, behaviours[item.id], calls[item.id])) for item in chosen]


def _behaviour(item: Item) -> _Behaviour:
    name = ""
    if item.channel == "sms" and item.recipient.startswith(_NUMBER):
        name = item.recipient.removeprefix(_NUMBER)
    elif item.channel == "email" and item.recipient.endswith(_DOMAIN):
        name = item.recipient.removesuffix(_DOMAIN)
    known = _BEHAVIOURS.get((item.channel, name))
    if known is None and _is_unlucky(item):
        return _Behaviour("unreachable")
    return known or _DELIVERED


def _is_unlucky(item: Item) -> bool:
    rate: Decimal = setting("MOCK_FAILURE_RATE")
    return zlib.crc32(item.id.bytes) % 1_000_000 < rate * 1_000_000


def _remember(items: Sequence[Item], behaviours: dict[UUID, _Behaviour]) -> dict[UUID, int]:
    with as_system("providers.mock") as session:
        rows = session.execute(
            _REMEMBER,
            {
                "ids": [item.id for item in items],
                "channels": [item.channel for item in items],
                "recipients": [item.recipient for item in items],
                "outcomes": [behaviours[item.id].error_code or "delivered" for item in items],
            },
        )
        return {row.message_id: row.calls for row in rows}


def _outcome(item: Item, behaviour: _Behaviour, calls: int) -> Outcome:
    if behaviour.error_code:
        return Outcome("rejected", behaviour.error_code)
    if behaviour.is_always_down or calls <= behaviour.failing_calls:
        return Outcome("retry", "provider_unavailable", retry_after=behaviour.retry_after)
    return Outcome("delivered", reference=f"mock-{item.id.hex}")
