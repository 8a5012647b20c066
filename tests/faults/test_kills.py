"""With any process killed at any moment, each accepted message is finished, billed and reported exactly once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults import consistency
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
    """Run two receivers for each organization: one that always succeeds, and one that sometimes fails."""
    with ExitStack() as stacked:
        running = [stacked.enter_context(run_receiver()) for _ in range(2 * len(TENANTS))]
        for receiver in running[1::2]:
            receiver.script = [500, 204, 503] * 20
        yield {receiver.url: receiver for receiver in running}


def tenants_of(running: Stack, receivers: dict[str, Receiver]) -> list[Tenant]:
    servers = list(receivers.values())
    return [sign_up(running, name, servers[2 * i : 2 * i + 2]) for i, name in enumerate(TENANTS)]


@pytest.mark.parametrize("roles", ROUNDS if IS_LONG else ROUNDS[3:], ids="+".join)
def test_killed_processes_lose_and_double_nothing(
    stack: Callable[..., Stack], receivers: dict[str, Receiver], roles: tuple[str, ...]
) -> None:
    running = stack(**SETTINGS)
    tenants = tenants_of(running, receivers)
    with Load(running, tenants, most=MESSAGES, pause=0.02) as load:
        running.storm(roles, KILLS, (0.2, 0.8))
        load.join(240)
    consistency.settle(running, 300 if IS_LONG else 90)
    violations = consistency.find_violations(running, load, receivers)
    consistency.report("+".join(roles), running, load, violations)
    assert violations == []
    assert running.kills >= KILLS
    assert len(load.journal) == MESSAGES
