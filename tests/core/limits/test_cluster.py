"""Limits on three nodes of a Redis Cluster: exact, shared, and local for the keys of a node that is away."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from redis import crc

from saas_api.core import ids
from saas_api.core.limits import backends, circuit_breaker, counters, diagnosis
from saas_api.core.limits.backends import Backend
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.direct_connections import Script
from saas_api.core.limits.limiter import generation_key
from tests.support.accounts import User, make_key, sign_up
from tests.support.http_receiver import wait_until
from tests.support.limits_backends import connect, counting_in, key_on
from tests.support.messages import LIST, SEND, SMS
from tests.support.rate_limits import stay_within_a_minute
from tests.support.redis_servers import RedisCluster, RedisServer, run_cluster, run_server
from tests.support.second_process import web_process

COUNT = Script.of("return redis.call('INCR', KEYS[1])")
COUNT_BOTH = Script.of("return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}")
BACK_SECONDS = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with run_cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def emptied(cluster: RedisCluster) -> Iterator[None]:
    """Begin with empty nodes, none of which is known to be away."""
    cluster.clear()
    yield
    for breaker in circuit_breaker._breakers.values():
        breaker.failures = 0


@pytest.fixture
def backend(cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return connect(cluster.url, monkeypatch)


@pytest.fixture
def counted(app: Flask, cluster: RedisCluster) -> Iterator[Backend]:
    """The application counts limits in the cluster."""
    with counting_in(cluster.url) as running:
        yield running


def sign_up_on(client: FlaskClient, cluster: RedisCluster, node: RedisServer) -> User:
    """Sign up an organization whose limits a node counts."""
    while True:
        user = sign_up(client, f"alice@{uuid4()}.example")
        if cluster.owner_of(generation_key(ids.parse_id("org", user.organization_id))) is node:
            return user


def answers(backend: Backend, key: str) -> bool:
    try:
        backend.run_script(COUNT, [key], [])
    except RedisUnavailable:
        return False
    return True


def test_script_runs_on_the_node_that_has_its_keys(cluster: RedisCluster, backend: Backend) -> None:
    keys = [key_on(cluster, node) for node in cluster.nodes]
    assert [backend.run_script(COUNT, [key], []) for key in keys * 2] == [1, 1, 1, 2, 2, 2]
    assert [node.command("GET", key) for node, key in zip(cluster.nodes, keys, strict=True)] == [b"2"] * 3


def test_node_that_has_lost_its_scripts_gets_them_again_while_another_is_down(
    cluster: RedisCluster, backend: Backend, kill: Callable[[RedisServer], None]
) -> None:
    first, second, third = cluster.nodes
    keys = [key_on(cluster, first), key_on(cluster, second)]
    assert [backend.run_script(COUNT, [key], []) for key in keys] == [1, 1]
    kill(third)
    second.command("SCRIPT", "FLUSH")
    assert [backend.run_script(COUNT, [key], []) for key in keys] == [2, 2]


@pytest.fixture
def kill(cluster: RedisCluster) -> Iterator[Callable[[RedisServer], None]]:
    """A function that kills a node, which is started again after the test."""
    yield lambda node: node.kill()
    for node in cluster.nodes:
        if not node.is_running:
            node.start()
    wait_until(cluster.is_complete, BACK_SECONDS)


def test_moving_slot_is_asked_at_its_new_node_and_found_there_afterwards(
    cluster: RedisCluster, backend: Backend, move: Callable[[str], "MovingSlot"]
) -> None:
    key = key_on(cluster, cluster.nodes[0])
    backend.execute(("GET", key))
    slot = move(key)
    assert backend.run_script(COUNT, [key], []) == 1
    assert slot.source.command("CLUSTER", "COUNTKEYSINSLOT", slot.number) == 0
    slot.finish()
    assert backend.run_script(COUNT, [key], []) == 2
    assert slot.target.command("GET", key) == b"2"


def test_keys_on_both_nodes_of_a_moving_slot_open_no_breaker(
    cluster: RedisCluster, backend: Backend, move: Callable[[str], "MovingSlot"]
) -> None:
    key = key_on(cluster, cluster.nodes[0])
    backend.run_script(COUNT, [key], [])
    move(key)
    for _ in range(5):
        with pytest.raises(RedisUnavailable):
            backend.run_script(COUNT_BOTH, [key, f"{key}:other"], [])
    assert not backend.breaker_of(key).is_away
    assert backend.run_script(COUNT, [key], []) == 2


class MovingSlot:
    """The slot of a key, on its way from one node to another."""

    def __init__(self, cluster: RedisCluster, key: str) -> None:
        self._cluster, self.number = cluster, crc.key_slot(key.encode())
        self.source = cluster.owner_of(key)
        self.target = next(node for node in cluster.nodes if node is not self.source)
        self.target.command("CLUSTER", "SETSLOT", self.number, "IMPORTING", self.source.node_id)
        self.source.command("CLUSTER", "SETSLOT", self.number, "MIGRATING", self.target.node_id)

    def finish(self, owner: RedisServer | None = None) -> None:
        for node in self._cluster.nodes:
            node.command("CLUSTER", "SETSLOT", self.number, "NODE", (owner or self.target).node_id)


@pytest.fixture
def move(cluster: RedisCluster) -> Iterator[Callable[[str], MovingSlot]]:
    """A function that begins to move the slot of a key; it is back after the test."""
    moved: list[MovingSlot] = []

    def begin(key: str) -> MovingSlot:
        moved.append(MovingSlot(cluster, key))
        return moved[-1]

    yield begin
    cluster.clear()
    for slot in moved:
        slot.finish(slot.source)


def test_killed_node_takes_only_its_keys_away_until_it_is_back(
    cluster: RedisCluster, backend: Backend, kill: Callable[[RedisServer], None]
) -> None:
    node, *others = cluster.nodes
    lost, kept = key_on(cluster, node), [key_on(cluster, other) for other in others]
    assert all(answers(backend, key) for key in (lost, *kept))
    kill(node)
    for _ in range(5):
        assert [answers(backend, key) for key in (lost, *kept)] == [False, True, True]
    assert backend.breaker_of(lost).is_open
    assert not any(backend.breaker_of(key).is_away for key in kept)
    assert backend.find_answering() == {node.name: False, **{other.name: True for other in others}}
    node.start()
    wait_until(lambda: answers(backend, lost), BACK_SECONDS)


def test_hanging_node_is_asked_once_a_second_and_delays_no_other(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(cluster.url, monkeypatch, 0.2)
    node, other, _ = cluster.nodes
    lost, kept = key_on(cluster, node), key_on(cluster, other)
    wait_until(lambda: answers(backend, lost) and answers(backend, kept), BACK_SECONDS)
    node.stop_answering()
    try:
        assert [answers(backend, lost) for _ in range(200)] == [False] * 200  # 40 s without a breaker
        wait_until(lambda: answers(backend, kept), BACK_SECONDS)
    finally:
        node.answer_again()
    wait_until(lambda: answers(backend, lost), BACK_SECONDS)


def test_replica_takes_the_keys_of_a_killed_node_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_cluster() as cluster:
        backend, node = connect(cluster.url, monkeypatch), cluster.nodes[0]
        key = key_on(cluster, node)
        slot = crc.key_slot(key.encode())
        assert backend.run_script(COUNT, [key], []) == 1
        replica = cluster.add_replica(node)
        wait_until(lambda: replica.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1, BACK_SECONDS)
        node.kill()
        replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(lambda: answers(backend, key), BACK_SECONDS)
        assert backend.run_script(COUNT, [key], []) == 3


def test_cluster_that_is_away_at_the_start_is_found_when_it_is_back(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(cluster.url, monkeypatch, 0.2)
    key = key_on(cluster, cluster.nodes[0])
    for node in cluster.nodes:
        node.stop_answering()
    try:
        assert not any(answers(backend, key) for _ in range(100))
        assert backend.breaker_of(key).is_open
        assert set(backend.find_answering().values()) == {False}
    finally:
        for node in cluster.nodes:
            node.answer_again()
    wait_until(lambda: answers(backend, key), BACK_SECONDS)


def test_slot_that_no_node_has_is_away_alone(cluster: RedisCluster, backend: Backend) -> None:
    node, other, _ = cluster.nodes
    key = key_on(cluster, node)
    slot = crc.key_slot(key.encode())
    assert answers(backend, key)
    node.command("DEL", key)
    for each in cluster.nodes:
        each.command("CLUSTER", "DELSLOTS", slot)
    try:
        assert not answers(backend, key)
        assert answers(backend, key_on(cluster, other))
    finally:
        node.command("CLUSTER", "ADDSLOTS", slot)
        wait_until(cluster.is_complete, BACK_SECONDS)
    wait_until(lambda: answers(backend, key), BACK_SECONDS)


def test_counters_of_several_organizations_are_corrected_on_their_nodes(
    cluster: RedisCluster, counted: Backend, kill: Callable[[RedisServer], None]
) -> None:
    keys = [key_on(cluster, node) for node in cluster.nodes]
    for key in keys:
        counted.execute(("SET", key, 10))
    counters.adjust_counters(dict(zip(keys, (1, -2, 0), strict=True)))
    assert [counters.read_counters([key]) for key in keys] == [[11], [8], [10]]
    kill(cluster.nodes[0])
    with pytest.raises(RedisUnavailable):
        counters.adjust_counters(dict.fromkeys(keys, 5))
    assert [counters.read_counters([key]) for key in keys[1:]] == [[13], [15]]


def test_address_of_a_single_redis_is_no_cluster_and_the_reverse(
    cluster: RedisCluster, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other, _ = cluster.nodes
    plain = connect(cluster.url.replace("redis+cluster", "redis").partition(",")[0], monkeypatch)
    assert not answers(plain, key_on(cluster, other))
    with run_server() as server:
        assert not answers(backends.connect(f"redis+cluster://{server.login}{server.name}"), "key")


def test_doctor_has_one_line_for_each_mistake(cluster: RedisCluster, kill: Callable[[RedisServer], None]) -> None:
    node, other, third = cluster.nodes
    login = node.login
    assert diagnosis.find_problems(cluster.url) == []
    plain = f"{node.name} is a node of a Redis Cluster: write redis+cluster://{node.name}"
    assert diagnosis.find_problems(f"redis://{login}{node.name}") == [plain]
    with run_server() as server:
        no_cluster = f"{server.name} is not a node of a cluster: write redis://{server.name}"
        assert diagnosis.find_problems(f"redis+cluster://{login}{server.name}") == [no_cluster]
    kill(third)
    [problem] = diagnosis.find_problems(f"redis+cluster://{login}{node.name},{other.name}")
    assert problem.startswith(f"{third.name}: Error 111 connecting to {third.name}")


def test_60_concurrent_calls_at_a_limit_of_20_pass_exactly_20(
    app: Flask, client: FlaskClient, counted: Backend
) -> None:
    key = make_key(client, sign_up(client), rate_limit_per_minute=20)
    stay_within_a_minute(12)
    with ThreadPoolExecutor(16) as pool:
        responses = pool.map(lambda _: app.test_client().get(LIST, headers=key), range(60))
        counts = Counter(response.status_code for response in responses)
    assert counts == {200: 20, 429: 40}


def test_two_processes_share_a_quota_and_a_rate_limit(
    client: FlaskClient, counted: Backend, cluster: RedisCluster, config: dict[str, Any], superuser: Any
) -> None:
    user = sign_up(client)
    key = make_key(client, user)
    with superuser, superuser.cursor() as cursor:
        cursor.execute(
            "INSERT INTO organization_limits (organization_id, rate_limit_per_minute, ceilings, reason)"
            """ VALUES (%s, 12, '{"sms": "7"}', 'test')""",
            (str(ids.parse_id("org", user.organization_id)),),
        )
    statuses, reads = [], []
    with web_process(config, LIMITS_REDIS_URL=cluster.url) as process:
        process.call("GET", "/healthz", {})
        stay_within_a_minute(12)
        for _ in range(5):
            statuses.append(client.post(SEND, json=SMS, headers=key).status_code)
            statuses.append(process.call("POST", SEND, key, SMS)["status"])
        for _ in range(3):
            reads.append(client.get(LIST, headers=key).status_code)
            reads.append(process.call("GET", LIST, key)["status"])
    assert Counter(statuses) == {202: 7, 429: 3}
    assert Counter(reads) == {200: 5, 429: 1}


def test_organizations_of_a_killed_node_are_limited_by_each_process_and_others_together(
    app: Flask,
    client: FlaskClient,
    cluster: RedisCluster,
    counted: Backend,
    kill: Callable[[RedisServer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(app.config, "LIMITS_REDIS_URL", cluster.url)
    node, other, _ = cluster.nodes
    lost, kept = (make_key(client, sign_up_on(client, cluster, each)) for each in (node, other))
    stay_within_a_minute(10)
    for key in (lost, kept):
        assert client.post(SEND, json=SMS, headers=key).headers["X-RateLimit-Remaining"] == "59"
    assert client.get("/readyz").json["limits_redis"] == "ok"  # type: ignore[index]
    kill(node)
    for key, remaining in ((lost, "29"), (kept, "58")):
        response = client.post(SEND, json=SMS, headers=key)
        assert (response.status_code, response.headers["X-RateLimit-Remaining"]) == (202, remaining)
    assert client.get("/readyz").json["limits_redis"] == "away"  # type: ignore[index]
    ups = re.findall(r'^saas_limits_redis_up\{server="(.+)"\} (.+)$', client.get("/metrics").text, re.MULTILINE)
    assert dict(ups) == {each.name: "0.0" if each is node else "1.0" for each in cluster.nodes}


def test_cluster_has_what_limits_count_and_the_queue_has_the_rest(
    client: FlaskClient, cluster: RedisCluster, counted: Backend, cache: redis.Redis, work: Callable[[], None]
) -> None:
    key = make_key(client, sign_up(client))
    client.post("/api/v1/auth/login", json={"email": "nobody@acme.example", "password": "wrong password"})
    assert client.post(SEND, json=SMS, headers=key).status_code == 202
    waiting = {name.decode().partition(":")[0] for name in cache.scan_iter()}
    work()
    in_cluster = {name.removeprefix("{").partition("}:")[2] or name for name in cluster.list_keys()}
    assert {name.partition(":")[0] for name in in_cluster} == {"gen", "rl", "q", "rl1", "catalogue"}
    assert waiting == {"rq", "wake"}
