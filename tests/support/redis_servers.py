"""Redis servers of a test beside that of the run: three nodes of a cluster, and a service that a Sentinel watches."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis import crc

from saas_api.cli.dev import host
from tests.support import ports
from tests.support.http_receiver import wait_until
from tests.support.installations import open_directory

SERVICE, PASSWORD = "limits", "7b1e9c0d"
BUS_OFFSET = 10_000
"""The nodes of a cluster talk on their port plus this number."""
START_SECONDS = 60
QUICK = ('save ""', "appendonly no", "bind 127.0.0.1")


class RedisServer:
    """A Redis on a port of its own, or a Sentinel."""

    def __init__(self, directory: Path, *options: str) -> None:
        """Write its configuration.

        options: lines of it; lines that begin with "sentinel" make a Sentinel
        """
        self.port = ports.free_port(BUS_OFFSET)
        self.name = f"127.0.0.1:{self.port}"
        self._directory = directory / str(self.port)
        host.make_engine_directory(self._directory, 0o755)
        self._mode = ("--sentinel",) if any(option.startswith("sentinel ") for option in options) else ()
        lines = (f"port {self.port}", f"dir {self._directory}", f"requirepass {PASSWORD}", *QUICK, *options)
        self._file = self._directory / "redis.conf"
        self._file.write_text("\n".join(lines) + "\n")
        if user := host.unprivileged_popen_args():  # a Sentinel writes to its file
            os.chown(self._file, user["user"], user["group"])

    def start(self) -> None:
        """Start it, also after it was killed."""
        self.spawn()
        self.wait_for_answer()

    def spawn(self) -> None:
        """Start its process."""
        self.process = subprocess.Popen(
            [host.redis_server_path(), self._file, *self._mode],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **host.unprivileged_popen_args(),
        )

    def wait_for_answer(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        assert self.is_running, f"{self.name} ended"
        try:
            return bool(self.command("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def command(self, *arguments: Any) -> Any:
        """Run a command."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def client(self) -> redis.Redis:
        """A client of this server alone."""
        return redis.Redis("127.0.0.1", self.port, password=PASSWORD, socket_timeout=10)

    @property
    def login(self) -> str:
        """What stands before its name in an address."""
        return f":{PASSWORD}@"

    @property
    def node_id(self) -> str:
        """Its id in a cluster."""
        return str(self.command("CLUSTER", "MYID").decode())

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def has_link(self) -> bool:
        """Whether it is a replica that its primary keeps up to date."""
        return self.command("INFO", "replication").get("master_link_status") == "up"

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop_answering(self) -> None:
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """End the hang."""
        self.process.send_signal(signal.SIGCONT)


def _start(servers: contextlib.ExitStack, directory: Path, *options: str) -> RedisServer:
    server = RedisServer(directory, *options)
    server.spawn()
    servers.callback(server.kill)
    server.wait_for_answer()
    return server


class RedisCluster:
    """Three nodes, each with a third of the slots."""

    def __init__(self, directory: Path, servers: contextlib.ExitStack) -> None:
        self._directory, self._servers = directory, servers
        self.nodes = [self._start_node() for _ in range(3)]
        third = crc.REDIS_CLUSTER_HASH_SLOTS // 3 + 1
        for index, node in enumerate(self.nodes):
            slots = range(index * third, min((index + 1) * third, crc.REDIS_CLUSTER_HASH_SLOTS))
            node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            node.command("CLUSTER", "ADDSLOTS", *slots)
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_until(self.is_complete, START_SECONDS)

    @property
    def url(self) -> str:
        return f"redis+cluster://:{PASSWORD}@{','.join(node.name for node in self.nodes)}"

    def owner_of(self, key: str) -> RedisServer:
        """The node that has a key, according to the first."""
        slot = crc.key_slot(key.encode())
        for first, last, (_, port, *_), *_ in self.nodes[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(slot)

    def list_keys(self) -> list[str]:
        """The keys of all nodes."""
        return [key.decode() for node in self.nodes for key in node.command("KEYS", "*")]

    def is_complete(self) -> bool:
        """Whether every node knows that each slot has its node."""
        return all(map(self._sees_all, self.nodes))

    def clear(self) -> None:
        """Delete every key and script."""
        for node in self.nodes:
            node.command("FLUSHALL")
            node.command("SCRIPT", "FLUSH")

    def add_replica(self, primary: RedisServer) -> RedisServer:
        """Start a replica of a node, and wait until it has its data."""
        replica = self._start_node()
        replica.command("CLUSTER", "MEET", "127.0.0.1", primary.port)
        wait_until(lambda: primary.node_id in str(replica.command("CLUSTER", "NODES")), START_SECONDS)
        wait_until(lambda: all(replica.node_id in str(node.command("CLUSTER", "NODES")) for node in self.nodes))
        replica.command("CLUSTER", "REPLICATE", primary.node_id)
        wait_until(replica.has_link, START_SECONDS)
        return replica

    def _start_node(self) -> RedisServer:
        return _start(
            self._servers,
            self._directory,
            *(f"masterauth {PASSWORD}", "cluster-enabled yes", "cluster-require-full-coverage no"),
        )

    @staticmethod
    def _sees_all(node: RedisServer) -> bool:
        state = node.command("CLUSTER", "INFO").decode()
        return "cluster_state:ok" in state and f"cluster_slots_ok:{crc.REDIS_CLUSTER_HASH_SLOTS}" in state


@contextlib.contextmanager
def run_server() -> Iterator[RedisServer]:
    """Run one Redis until the end of the block."""
    with open_directory() as directory, contextlib.ExitStack() as servers:
        yield _start(servers, directory)


@contextlib.contextmanager
def run_cluster() -> Iterator[RedisCluster]:
    """Run three nodes until the end of the block."""
    with open_directory() as directory, contextlib.ExitStack() as servers:
        yield RedisCluster(directory, servers)


class WatchedService:
    """A primary and a replica, and the Sentinel that watches them; all ask for a password."""

    def __init__(self, directory: Path, servers: contextlib.ExitStack) -> None:
        login = f"masterauth {PASSWORD}"
        self.primary = _start(servers, directory, login)
        self.replica = _start(servers, directory, login, f"replicaof 127.0.0.1 {self.primary.port}")
        wait_until(self.replica.has_link, START_SECONDS)
        settings = (
            f"monitor {SERVICE} 127.0.0.1 {self.primary.port} 1",
            f"auth-pass {SERVICE} {PASSWORD}",
            f"down-after-milliseconds {SERVICE} 1000",
            f"failover-timeout {SERVICE} 2000",
        )
        self.sentinel = _start(servers, directory, *(f"sentinel {setting}" for setting in settings))
        wait_until(lambda: bool(self.sentinel.command("SENTINEL", "REPLICAS", SERVICE)), START_SECONDS)

    @property
    def url(self) -> str:
        return f"redis+sentinel://:{PASSWORD}@{self.sentinel.name}/{SERVICE}"

    def fail_over(self) -> bool:
        """Make the replica the primary; False when the Sentinel does not know it well enough yet."""
        try:
            return bool(self.sentinel.command("SENTINEL", "FAILOVER", SERVICE))
        except redis.ResponseError:
            return False


@contextlib.contextmanager
def run_watched_service() -> Iterator[WatchedService]:
    """Run a primary, a replica and a Sentinel until the end of the block."""
    with open_directory() as directory, contextlib.ExitStack() as servers:
        yield WatchedService(directory, servers)
