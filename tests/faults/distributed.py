"""Engines of a product that is spread: PgBouncer, a streaming replica, and limits on three nodes of a Redis Cluster."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from saas_api.cli.dev import engines as embedded
from saas_api.cli.dev.engines import Engines
from tests.support.pgbouncer import pooled_url, running_pgbouncer
from tests.support.redis_servers import RedisServer, run_cluster
from tests.support.replicas import running_standby

CONNECTIONS = 20


class DistributedEngines:
    """PostgreSQL and Redis of a checkout in the background, and what stands around them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.engines = Engines(root / "instance")
        self._parts = ExitStack()
        self._is_stopping = threading.Event()
        self.settings: dict[str, str] = {}
        self.nodes: Sequence[RedisServer] = ()

    def start(self) -> None:
        """Start everything, and store the settings that lead to it."""
        command = [sys.executable, "-m", "flask", "dev", "engines", "start"]
        subprocess.run(command, cwd=self._root, env=os.environ, check=True, stdout=subprocess.DEVNULL)
        self._parts.callback(embedded.stop_owner_process, self.engines)
        standby = self._parts.enter_context(running_standby(self.engines))
        pooler = self._parts.enter_context(running_pgbouncer(self.engines, CONNECTIONS, 5, replica=standby.run))
        cluster = self._parts.enter_context(run_cluster())
        self.nodes = cluster.nodes
        restarts = threading.Thread(target=self._restart_nodes, daemon=True)
        restarts.start()
        self._parts.callback(restarts.join)
        self._parts.callback(self._is_stopping.set)
        self.settings = {
            "DATABASE_URL": pooled_url(pooler),
            "DATABASE_POOLER": "pgbouncer",
            "DATABASE_OWNER_URL": self.engines.owner_url,
            "DATABASE_REPLICA_URL": pooled_url(pooler, "replica"),
            "REDIS_URL": f"{self.engines.redis_url}?db=0",  # not as `make run` writes it: it would start one there
            "LIMITS_REDIS_URL": cluster.url,
        }

    def stop(self) -> None:
        """Stop everything."""
        self._parts.close()

    def pid(self, name: str) -> int:
        """Process id of PostgreSQL or of the Redis of the queue."""
        return int((self.engines.run / f"{name}.pid").read_text())

    def _restart_nodes(self) -> None:
        """Do what a service manager does: start each node again that has ended."""
        while not self._is_stopping.wait(0.2):
            for node in self.nodes:
                if not node.is_running:
                    with suppress(AssertionError):  # killed again before it answered
                        node.start()
