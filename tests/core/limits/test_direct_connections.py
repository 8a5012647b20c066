"""Commands to Redis without the layers of redis-py: every kind of address, errors, time-outs, threads, forks."""

import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from saas_api.core.limits import direct_connections
from saas_api.core.limits.direct_connections import DirectConnections, Script
from tests.support import certificates
from tests.support.redis_relay import relay

ECHO = Script.of("return {KEYS[1], ARGV[1]}")


@pytest.fixture
def control(config: dict[str, Any]) -> Iterator[redis.Redis]:
    """A client beside the one under test."""
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        yield client


@pytest.fixture
def connections(config: dict[str, Any]) -> DirectConnections:
    return connections_to(config["REDIS_URL"])


def connections_to(url: str, seconds: float = 10) -> DirectConnections:
    """Connections with time-outs that a busy machine does not exceed, or with others."""
    pool = direct_connections.low_latency_pool(url)
    pool.connection_kwargs.update(socket_timeout=seconds, socket_connect_timeout=seconds)
    return DirectConnections(pool)


def connection_id(connections: DirectConnections) -> int:
    """Redis' own number of this thread's connection."""
    return int(connections.execute(("CLIENT", "ID"))[0])


def test_one_round_trip_answers_several_commands(connections: DirectConnections) -> None:
    assert connections.execute(("SET", "a", 1), ("INCR", "a"), ("GET", "a")) == [b"OK", 2, b"2"]


def test_path_with_a_user_a_password_and_a_database(config: dict[str, Any], control: redis.Redis) -> None:
    control.acl_setuser("alice", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+@all"])
    path = urlsplit(config["REDIS_URL"]).path
    try:
        assert connections_to(f"unix://alice:s3cret@{path}?db=3").execute(("ACL", "WHOAMI"))[0] == b"alice"
        connections_to(f"unix://alice:s3cret@{path}?db=3").execute(("SET", "there", 1))
        with pytest.raises(redis.AuthenticationError):
            connections_to(f"unix://alice:wrong@{path}").execute(("PING",))
        assert (control.exists("there"), control.info("keyspace")["db3"]["keys"]) == (0, 1)
    finally:
        control.acl_deluser("alice")
        control.execute_command("SELECT", 3)
        control.flushdb()


def test_host_and_port(config: dict[str, Any]) -> None:
    with relay(config["REDIS_URL"]) as address:
        assert connections_to(f"redis://{address}/0").execute(("ECHO", "hello")) == [b"hello"]


def test_host_and_port_with_tls(config: dict[str, Any], tmp_path: Path) -> None:
    certificate, key = certificates.create_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with relay(config["REDIS_URL"], tls) as address:
        url = f"rediss://{address.replace('127.0.0.1', 'localhost')}/0"
        assert connections_to(f"{url}?ssl_ca_certs={certificate}").execute(("ECHO", "hello")) == [b"hello"]
        with pytest.raises(redis.ConnectionError):  # no certificate that is known here signs the server's
            connections_to(url).execute(("ECHO", "hello"))


def test_script_that_redis_has_lost_is_sent_again(connections: DirectConnections, control: redis.Redis) -> None:
    control.script_flush()
    control.set("a", 5)
    for _ in range(2):
        assert connections.run_script(ECHO, ["b"], [7], ("GET", "a")) == [b"5", [b"b", b"7"]]
    assert control.script_exists(ECHO.sha) == [True]


def test_error_among_the_answers_is_raised_after_all_of_them_are_read(connections: DirectConnections) -> None:
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        connections.execute(("RPUSH", "list", 1), ("GET", "list"), ("ECHO", "not read"))
    assert connections.execute(("ECHO", "next")) == [b"next"]


def test_connection_that_the_server_has_closed_is_replaced(
    connections: DirectConnections, control: redis.Redis
) -> None:
    first = connection_id(connections)
    control.client_kill_filter(_id=str(first))
    assert connection_id(connections) != first


def test_late_answer_is_not_taken_for_that_of_the_next_command(config: dict[str, Any]) -> None:
    connections = connections_to(config["REDIS_URL"], 0.05)
    with pytest.raises(redis.TimeoutError):
        connections.execute(("BLPOP", "missing", 0.2))
    connections._pool.connection_kwargs["socket_timeout"] = 10
    assert connections.execute(("ECHO", "next")) == [b"next"]


def test_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hung.sock"))
        listener.listen(1)
        with pytest.raises(redis.TimeoutError):
            connections_to(f"unix://{tmp_path / 'hung.sock'}", 0.05).execute(("PING",))


def test_threads_that_ask_at_once_have_connections_of_their_own(
    connections: DirectConnections, control: redis.Redis
) -> None:
    control.delete("answer")
    before = connection_id(connections)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(connections.execute, ("CLIENT", "ID"), ("BLPOP", "answer", 5)) for _ in range(4)]
        control.rpush("answer", *range(4))
        answers = [future.result() for future in asked]
    assert sorted(value for _, (_, value) in answers) == [b"0", b"1", b"2", b"3"]
    assert before in {number for number, _ in answers}
    assert len(connections._idle) == len({number for number, _ in answers})
    assert connection_id(connections) in {number for number, _ in answers}


def test_forked_process_opens_a_connection_of_its_own(connections: DirectConnections) -> None:
    before = connection_id(connections)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, str(connection_id(connections)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read_end, 100)) != before
    os.close(read_end)
    os.close(write_end)
    assert connection_id(connections) == before
