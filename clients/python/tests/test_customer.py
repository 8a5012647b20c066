"""What a customer does with the client: keys, messages, usage; and what it does when something fails."""

import asyncio
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from clients.python.tests.unreliable_proxy import UnreliableProxy
from saas_api_client import (
    ApiError,
    AsyncClient,
    AuthenticationError,
    Client,
    NotFoundError,
    PlatformUnreachableError,
    RateLimitError,
    ServerError,
    ValidationError,
)
from tests.support.ports import free_port

SMS = {"type": "sms", "to": "+2348012345678", "message": "Hello"}


def test_customer_creates_changes_rotates_and_revokes_a_key(customer: Client) -> None:
    created = customer.keys.create("billing job", scopes=["usage:read"], rate_limit_per_minute=30)
    assert created.key.startswith("sk_live_")
    assert created.scopes == ["usage:read"]

    changed = customer.keys.update(created.id, name="night job", rate_limit_per_minute=None)
    assert (changed.name, changed.rate_limit_per_minute, changed.scopes) == ("night job", None, ["usage:read"])

    rotated = customer.keys.rotate(created.id, grace_seconds=60)
    assert rotated.key != created.key
    assert rotated.old_expires_at.tzinfo is not None

    assert customer.keys.revoke(created.id).status == "revoked"
    [listed] = customer.keys.list(status="revoked").keys
    assert listed == customer.keys.get(created.id)


def test_customer_sends_lists_and_cancels_a_message(platform: str, key: Any) -> None:
    with Client(platform, key.key) as client:
        accepted = client.messages.send(**SMS)
        assert accepted.status == "queued"
        assert client.messages.get(accepted.message_id).to == "+2348012345678"
        page = client.messages.list(type="sms")
        assert [message.message_id for message in page.messages] == [accepted.message_id]
        assert not page.pagination.has_more
        assert client.messages.cancel(accepted.message_id).status == "canceled"


def test_customer_reads_usage(platform: str, key: Any) -> None:
    with Client(platform, key.key) as client:
        accepted = client.messages.send(**SMS)
        usage = client.usage.get()
        assert usage.summary.total_requests == 1
        assert usage.summary.list_cost == Decimal(accepted.cost)
        day = accepted.created_at.date()
        series = client.usage.timeseries(start_date=day, end_date=day, interval="hour")
        assert sum(point.requests for point in series.points) == 1


def test_asynchronous_client_offers_the_same(platform: str, key: Any) -> None:
    async def send() -> str:
        async with AsyncClient(platform, key.key) as client:
            accepted = await client.messages.send(**SMS)
            found, usage = await asyncio.gather(client.messages.get(accepted.message_id), client.usage.get())
            assert usage.summary.total_requests == 1
            return found.message_id

    with Client(platform, key.key) as client:
        assert client.messages.get(asyncio.run(send())).to == "+2348012345678"


def test_both_clients_have_the_same_methods() -> None:
    def operations(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert operations(Client) - {"close", "copy"} == operations(AsyncClient) - {"aclose"}
    with Client("http://localhost", "token") as client:
        other = AsyncClient("http://localhost", "token")
        for resource in ("keys", "messages", "usage"):
            assert operations(type(getattr(client, resource))) == operations(type(getattr(other, resource)))


def test_error_has_its_code_its_request_and_the_reasons(customer: Client, platform: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        customer.keys.create("", rate_limit_per_minute=0)
    assert invalid.value.fields.keys() == {"name", "rate_limit_per_minute"}
    assert (invalid.value.status, invalid.value.code) == (422, "VALIDATION_ERROR")
    assert invalid.value.request_id

    with pytest.raises(NotFoundError, match="404 NOT_FOUND"):
        customer.keys.get("key_" + "0" * 32)
    with Client(platform, "sk_live_unknown") as stranger, pytest.raises(AuthenticationError, match="INVALID_API_KEY"):
        stranger.messages.list()


def test_url_or_token_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="begins with http"):
        Client("platform.example.com", "svc_token")
    with pytest.raises(ValueError, match="line break"):
        AsyncClient("https://platform.example.com", "svc_token\n")


def test_naive_time_is_refused_before_it_is_sent(customer: Client) -> None:
    with pytest.raises(ValueError, match="time zone"):
        customer.keys.create("until when?", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the fault


@pytest.mark.parametrize("fault", [503, 502, "cut before", "cut after"])
def test_message_is_sent_once_when_an_attempt_fails(proxy: UnreliableProxy, key: Any, fault: int | str) -> None:
    proxy.script[:] = [fault]
    with Client(proxy.url, key.key) as client:
        accepted = client.messages.send(**SMS)
        assert [message.message_id for message in client.messages.list().messages] == [accepted.message_id]
    first, second = proxy.requests[:2]
    assert first[1]["idempotency-key"] == second[1]["idempotency-key"]


def test_platform_that_stays_away_is_an_error_within_the_time_given(proxy: UnreliableProxy) -> None:
    started_at = time.monotonic()
    with Client(proxy.url, "token", total_timeout_seconds=0.5) as client:
        proxy.script[:] = [503] * 9
        with pytest.raises(ServerError) as refused:
            client.usage.get()
    assert (refused.value.status, refused.value.code) == (503, "UNEXPECTED_RESPONSE")
    assert len(proxy.requests) > 1
    away = Client(f"http://127.0.0.1:{free_port()}", "token", total_timeout_seconds=0.2)
    with away, pytest.raises(PlatformUnreachableError, match="ConnectError"):
        away.usage.get()
    assert time.monotonic() - started_at < 2


def test_retry_after_is_respected(proxy: UnreliableProxy, key: Any) -> None:
    proxy.script[:], proxy.headers = [429], {"Retry-After": "1"}
    started_at = time.monotonic()
    with Client(proxy.url, key.key) as client:
        client.usage.get()
    assert time.monotonic() - started_at >= 1

    proxy.script[:], proxy.headers = [429], {"Retry-After": "60"}
    with Client(proxy.url, key.key) as client, pytest.raises(RateLimitError) as limited:
        client.usage.get()
    assert limited.value.retry_after_seconds == 60
    assert time.monotonic() - started_at < 5


def test_page_of_a_proxy_is_an_error_and_not_an_answer(proxy: UnreliableProxy) -> None:
    proxy.script[:] = [200]
    with Client(proxy.url, "token") as client, pytest.raises(ApiError, match="UNEXPECTED_RESPONSE"):
        client.usage.get()
