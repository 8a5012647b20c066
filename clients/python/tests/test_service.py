"""What a service does with the client: verify, hold, record, reverse."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from clients.python.tests.platform_service import recorded
from clients.python.tests.unreliable_proxy import UnreliableProxy
from saas_api_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    ConflictError,
    Event,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    SaasApiError,
    ValidationError,
)
from tests.support.accounts import User


def test_valid_key_is_metered_in_one_call(app: Flask, alice: User, service: Client, service_key: Any) -> None:
    verification = service.verify(service_key.key, permission="lookups:write", meter="lookups", quantity=Decimal(2))
    assert (verification.valid, verification.code, verification.mode) == (True, "VALID", "live")
    assert (verification.key_id, verification.organization_id) == (service_key.id, alice.organization_id)
    assert verification.units == 2
    assert verification.limits
    assert {limit.name for limit in verification.limits} <= {"key", "plan"}
    assert recorded(app, alice, "lookups") == (1, "2.000000")


def test_key_that_may_not_is_an_answer_and_costs_nothing(
    app: Flask, alice: User, service: Client, customer: Client, service_key: Any
) -> None:
    assert service.verify("sk_live_unknown", meter="lookups").code == "NOT_FOUND"
    reader = customer.keys.create("reader", scopes=["usage:read"])
    refused = service.verify(reader.key, permission="lookups:write", meter="lookups")
    assert (refused.valid, refused.code, refused.key_id) == (False, "INSUFFICIENT_SCOPE", reader.id)
    office = customer.keys.create("office", allowed_ips=["198.51.100.0/24"])
    assert service.verify(office.key, ip="203.0.113.7", meter="lookups").code == "IP_NOT_ALLOWED"
    assert service.verify(office.key, ip="198.51.100.7").code == "VALID"
    tester = customer.keys.create("tester", mode="test")
    assert service.verify(tester.key, meter="lookups").mode == "test"
    assert recorded(app, alice, "lookups") == (0, "0")


@pytest.mark.parametrize("fault", [503, "cut before", "cut after"])
def test_verified_call_counts_once_when_an_attempt_fails(
    app: Flask, alice: User, proxy: UnreliableProxy, service_token: str, service_key: Any, fault: int | str
) -> None:
    proxy.script[:] = [fault]
    with Client(proxy.url, service_token) as service:
        assert service.verify(service_key.key, meter="lookups").valid
        proxy.script[:] = [fault]
        service.record(Event("lookups", alice.organization_id))
        proxy.script[:] = [fault]
        hold = service.hold(key=service_key.key, meter="tokens", quantity=100)
        proxy.script[:] = [fault]
        assert service.settle(hold.hold_id, 7).status == "settled"
    assert recorded(app, alice, "lookups") == (2, "2.000000")
    assert recorded(app, alice, "tokens") == (1, "7.000000")


def test_key_that_is_bound_to_networks_needs_the_customers_address(
    service: Client, create_key: Callable[..., Any]
) -> None:
    key = create_key("lookups:write", allowed_ips=["203.0.113.0/24"]).key
    assert service.verify(key, ip="203.0.113.7").valid
    assert service.verify(key).code == "IP_NOT_ALLOWED"
    assert service.hold(key=key, meter="tokens", quantity=1, ip="203.0.113.7").status == "open"
    with pytest.raises(PermissionDeniedError, match="IP_NOT_ALLOWED"):
        service.hold(key=key, meter="tokens", quantity=1)


def test_hold_is_settled_with_what_was_used_or_released(
    app: Flask, alice: User, service: Client, service_key: Any
) -> None:
    hold = service.hold(key=service_key.key, meter="tokens", quantity=1000, seconds=60)
    assert service.get_hold(hold.hold_id).status == "open"
    settled = service.settle(hold.hold_id, 1200, dimensions={"model": "small"})
    assert settled.status == "settled"
    assert service.settle(hold.hold_id, 1200, dimensions={"model": "small"}).usage_event_id == settled.usage_event_id
    with pytest.raises(ConflictError, match="HOLD_ENDED") as ended:
        service.release(hold.hold_id)
    assert ended.value.details["status"] == "settled"

    other = service.hold(organization_id=alice.organization_id, meter="tokens", quantity=5)
    assert service.release(other.hold_id).status == "released"
    assert recorded(app, alice, "tokens") == (1, "1200.000000")


def test_verification_can_hold_instead_of_record(app: Flask, alice: User, service: Client, service_key: Any) -> None:
    verification = service.verify(service_key.key, meter="tokens", quantity=10, hold_seconds=60)
    assert verification.hold_id
    assert verification.usage_event_id is None
    assert recorded(app, alice, "tokens") == (0, "0")
    assert service.settle(verification.hold_id, 4).usage_event_id
    assert recorded(app, alice, "tokens") == (1, "4.000000")


def test_events_are_recorded_once_and_bad_ones_reported(app: Flask, alice: User, service: Client) -> None:
    named = service.set_external_id(alice.organization_id, "customer-17")
    assert named.organization.external_id == "customer-17"
    good = Event("lookups", "customer-17", 3)
    answer = service.record(good, Event("unknown", "customer-17"))
    assert (answer.accepted, answer.duplicates, answer.rejected) == (1, 0, 1)
    assert [problem.index for problem in answer.errors] == [1]
    assert service.record(good).duplicates == 1
    assert recorded(app, alice, "lookups") == (1, "3.000000")


@pytest.mark.parametrize(
    "event", [Event("lookups", "\ud800"), Event("lookups", "customer-17", properties={"\ud800": "a"})]
)
def test_event_that_cannot_be_encoded_is_an_error_of_the_client(event: Event) -> None:
    with Client("http://platform.invalid", "svc_token") as service:
        with pytest.raises(SaasApiError) as raised:
            service.record(event)
        assert isinstance(raised.value, InvalidRequestError)


def test_usage_is_reversed_once(app: Flask, alice: User, service: Client, service_key: Any) -> None:
    verification = service.verify(service_key.key, meter="lookups")
    assert verification.usage_event_id
    service.reverse(verification.usage_event_id)
    assert recorded(app, alice, "lookups")[1] == "0.000000"


def test_faults_of_the_service_are_errors(service: Client, platform: str, service_key: Any) -> None:
    with pytest.raises(ValidationError, match="422"):
        service.verify(service_key.key, meter="unknown")
    with pytest.raises(NotFoundError):
        service.get_hold("hld_" + "0" * 32)
    for token in ("svc_unknown", service_key.key):
        with pytest.raises(AuthenticationError, match="INVALID_SERVICE_TOKEN"), Client(platform, token) as stranger:
            stranger.verify(service_key.key)


def test_asynchronous_service_verifies_many_calls_at_once(
    app: Flask, alice: User, platform: str, service_token: str, service_key: Any
) -> None:
    async def verify() -> list[bool]:
        async with AsyncClient(platform, service_token) as client:
            answers = await asyncio.gather(*(client.verify(service_key.key, meter="lookups") for _ in range(20)))
            return [answer.valid for answer in answers]

    assert all(asyncio.run(verify()))
    assert recorded(app, alice, "lookups") == (20, "20.000000")
