"""Whoever is killed at any moment, every accepted message comes to one end, is billed once and reported once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults import verdict as oracle
from tests.faults.load import Load, Tenant, sign_up
from tests.faults.stack import IS_LONG, QUICK, Stack
from tests.support.http_receiver import Receiver, run_receiver

TENANTS = ("acme", "globex", "initech")
EVERYBODY = ("web", "web child", "worker", "worker child", "horse", "scheduler")
ROUNDS = (
    ("web child", "web"),
    ("horse", "worker child"),
    EVERYBODY,
    (*EVERYBODY, "postgres", "redis"),
)
SETTINGS = {} if IS_LONG else QUICK
KILLS, MESSAGES = (36, 2_000) if IS_LONG else (8, 250)


@pytest.fixture
def receivers() -> Iterator[dict[str, Receiver]]:
    """Two for each tenant: one that always answers, and one that fails now and then."""
    with ExitStack() as stacked:
        made = [stacked.enter_context(run_receiver()) for _ in range(2 * len(TENANTS))]
        for one in made[1::2]:
            one.script = [500, 204, 503] * 20
        yield {one.url: one for one in made}


def tenants_of(running: Stack, receivers: dict[str, Receiver]) -> list[Tenant]:
    heard = list(receivers.values())
    return [sign_up(running, name, heard[2 * i : 2 * i + 2]) for i, name in enumerate(TENANTS)]


@pytest.mark.parametrize("roles", ROUNDS if IS_LONG else ROUNDS[3:], ids="+".join)
def test_killed_processes_lose_and_double_nothing(
    stack: Callable[..., Stack], receivers: dict[str, Receiver], roles: tuple[str, ...]
) -> None:
    running = stack(**SETTINGS)
    tenants = tenants_of(running, receivers)
    with Load(running, tenants, most=MESSAGES, pause=0.02) as load:
        running.storm(roles, KILLS, (0.2, 0.8))
        load.join(240)
    oracle.settle(running, 300 if IS_LONG else 90)
    found = oracle.reconcile(running, load, receivers)
    oracle.report("+".join(roles), running, load, found)
    assert found == []
    assert running.kills >= KILLS
    assert len(load.journal) == MESSAGES
