"""A buffer of usage events loses none and counts none twice, whatever fails in between."""

import asyncio
import contextlib
import signal
import subprocess
import threading
from typing import Any

import pytest
from flask import Flask

from clients.python.tests.platform_service import recorded, running_program
from clients.python.tests.unreliable_proxy import UnreliableProxy
from saas_api_client import (
    AsyncClient,
    AsyncEventBuffer,
    BufferClosedError,
    BufferFullError,
    Client,
    Event,
    EventBuffer,
    RejectedEvent,
)
from tests.support.accounts import User

PROGRAM = """
import os, signal, sys, time
from saas_api_client import Client, Event, EventBuffer
buffer = EventBuffer(Client(os.environ["SAAS_API_URL"], os.environ["SAAS_API_TOKEN"]), flush_seconds=60)
for _ in range(50):
    buffer.record(Event("lookups", sys.argv[1]))
print("recorded", flush=True)
"""
OWN_HANDLER = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); time.sleep(60)"
FORK = """
child = os.fork()
if child == 0:
    buffer.record(Event("lookups", sys.argv[1]))
else:
    os.waitpid(child, 0)
"""
ENDINGS = {"": 0, "sys.exit(3)": 3, "raise ValueError": 1, "time.sleep(60)": -signal.SIGTERM, OWN_HANDLER: 7, FORK: 0}
"""Ends of a program that has unsent events, and its status after them."""


def test_events_are_recorded_with_quantity_properties_and_time(app: Flask, alice: User, service: Client) -> None:
    with EventBuffer(service) as buffer:
        buffer.record(Event("tokens", alice.organization_id, 120, properties={"model": "small"}))
        buffer.record(Event("tokens", alice.organization_id, "2.5"))
        assert buffer.flush(timeout_seconds=5)
        assert buffer.unsent == 0
        assert recorded(app, alice, "tokens") == (2, "122.500000")


@pytest.mark.parametrize("faults", [[503, 503], ["cut before"], ["cut after"], ["cut after", 502, "cut before"]])
def test_event_counts_once_when_batches_fail(
    app: Flask, alice: User, proxy: UnreliableProxy, service_token: str, faults: list[int | str]
) -> None:
    proxy.script[:] = faults
    with Client(proxy.url, service_token) as client, EventBuffer(client, batch_events=20) as buffer:
        for _ in range(50):
            buffer.record(Event("lookups", alice.organization_id))
    assert recorded(app, alice, "lookups") == (50, "50.000000")
    assert len(proxy.requests) > 3


def test_rejected_event_is_reported_and_the_others_count(app: Flask, alice: User, service: Client) -> None:
    rejected: list[RejectedEvent] = []
    with EventBuffer(service, on_rejected=rejected.append) as buffer:
        buffer.record(Event("lookups", alice.organization_id))
        buffer.record(Event("unknown", alice.organization_id, id="wrong meter"))
        buffer.record(Event("lookups", "org_" + "0" * 32, id="wrong customer"))
    assert {one.event["id"] for one in rejected} == {"wrong meter", "wrong customer"}
    assert all(one.code and one.message for one in rejected)
    assert recorded(app, alice, "lookups") == (1, "1.000000")


def test_batch_that_is_refused_as_a_whole_loses_only_its_bad_event(app: Flask, alice: User, service: Client) -> None:
    rejected: list[RejectedEvent] = []
    with EventBuffer(service, on_rejected=rejected.append) as buffer:
        for number in range(5):
            buffer.record(Event("lookups", alice.organization_id, id=f"good-{number}"))
        deep: Any = "bottom"
        for _ in range(64):
            deep = {"deeper": deep}
        buffer.record(Event("lookups", alice.organization_id, properties={"deep": deep}, id="bad"))
    assert [one.event["id"] for one in rejected] == ["bad"]
    assert recorded(app, alice, "lookups") == (5, "5.000000")


def test_fault_of_the_callback_does_not_stop_the_buffer(app: Flask, alice: User, service: Client) -> None:
    def fail(_: RejectedEvent) -> None:
        raise RuntimeError("a fault of the program")

    with EventBuffer(service, on_rejected=fail) as buffer:
        buffer.record(Event("unknown", alice.organization_id))
        assert buffer.flush(5)
        buffer.record(Event("lookups", alice.organization_id))
    assert recorded(app, alice, "lookups") == (1, "1.000000")


def test_full_buffer_makes_record_wait_and_then_refuses(
    app: Flask, alice: User, proxy: UnreliableProxy, service_token: str
) -> None:
    proxy.always = 503
    with Client(proxy.url, service_token, total_timeout_seconds=0.1) as client:
        buffer = EventBuffer(client, max_events=3)
        for _ in range(3):
            buffer.record(Event("lookups", alice.organization_id))
        with pytest.raises(BufferFullError, match="3 events are waiting"):
            buffer.record(Event("lookups", alice.organization_id), wait_seconds=0.05)
        waiting = threading.Thread(target=buffer.record, args=(Event("lookups", alice.organization_id),))
        waiting.start()
        proxy.always = None
        waiting.join(5)
        buffer.close()
    assert recorded(app, alice, "lookups") == (4, "4.000000")


def test_closed_buffer_takes_nothing_and_hands_back_what_it_could_not_send(
    alice: User, proxy: UnreliableProxy, service_token: str
) -> None:
    proxy.always = 503
    left: list[RejectedEvent] = []
    with Client(proxy.url, service_token, total_timeout_seconds=0.1) as client:
        buffer = EventBuffer(client, on_rejected=left.append)
        event_id = buffer.record(Event("lookups", alice.organization_id))
        assert not buffer.close(timeout_seconds=0.2)
        with pytest.raises(BufferClosedError):
            buffer.record(Event("lookups", alice.organization_id))
    assert [(one.event["id"], one.code) for one in left] == [(event_id, "NOT_SENT")]


@pytest.mark.parametrize("quantity", [1.5, True, None])
def test_quantity_that_is_not_exact_is_refused_at_once(service: Client, quantity: Any) -> None:
    with EventBuffer(service) as buffer:
        if quantity is None:
            with pytest.raises(ValueError, match="megabyte"):
                buffer.record(Event("lookups", "customer", properties={"text": "x" * 1_000_000}))
        else:
            with pytest.raises(TypeError, match="a quantity is"):
                buffer.record(Event("lookups", "customer", quantity))
        assert buffer.unsent == 0


def test_asynchronous_buffer_does_the_same(app: Flask, alice: User, platform: str, service_token: str) -> None:
    async def record() -> None:
        async with AsyncClient(platform, service_token) as client, AsyncEventBuffer(client, max_events=10) as buffer:
            await asyncio.gather(*(buffer.record(Event("lookups", alice.organization_id)) for _ in range(50)))
            assert await buffer.flush(5)
            assert buffer.unsent == 0
            await buffer.record(Event("lookups", alice.organization_id))

    asyncio.run(record())
    assert recorded(app, alice, "lookups") == (51, "51.000000")


def test_programs_that_end_have_sent_their_events(app: Flask, alice: User, platform: str, service_token: str) -> None:
    def program(ending: str) -> contextlib.AbstractContextManager["subprocess.Popen[str]"]:
        return running_program(["-c", PROGRAM + ending, alice.organization_id], platform, service_token)

    with contextlib.ExitStack() as stack:
        programs = {ending: stack.enter_context(program(ending)) for ending in ENDINGS}
        for ending, running in programs.items():
            assert running.stdout
            assert running.stdout.readline() == "recorded\n"
            if "sleep" in ending:
                running.send_signal(signal.SIGTERM)
        statuses = {ending: running.wait(20) for ending, running in programs.items()}
    assert statuses == ENDINGS
    events = 50 * len(ENDINGS) + 1  # and that of the fork
    assert recorded(app, alice, "lookups") == (events, f"{events}.000000")
