"""Runs the whole product from a copy of the repository and sends signals to its processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import redis
import requests

from saas_api.cli.dev.engines import Engines
from saas_api.settings import instance
from tests.cli.test_up import NOT_COPIED, ROOT
from tests.faults.distributed import DistributedEngines
from tests.support import ports
from tests.support.redis_servers import RedisServer

QUICK = {"LEASE_SECONDS": "3", "SWEEP_SECONDS": "1", "DRAIN_SECONDS": "5", "TIME_SCALE": "1000"}
OPEN = {"RATE_LIMIT_PER_MINUTE": "1000000", "DEFAULT_SPEND_CAP": "none", "LOG_LEVEL": "warning"}
SUPERVISED = ("web", "worker", "scheduler", "postgres", "redis")
GROWN_SECONDS = 6
"""Minimum age of a killed process: the supervisor gives up processes that keep dying within five seconds."""
IS_LONG = os.environ.get("FAULTS") == "long"
SERVER = os.environ.get("SERVER", "gunicorn")
"""The web server; the product inherits the setting."""
IS_DISTRIBUTED = os.environ.get("TOPOLOGY") == "distributed"


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until a condition holds, or fail."""
    ends_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends_at, f"{what}: not after {seconds} s"
        time.sleep(0.05)
    return value


def _age(pid: int) -> float:
    try:
        return time.time() - psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


class Stack:
    """`make run` without demo data, on its embedded engines or, with TOPOLOGY=distributed, on what is spread."""

    def __init__(self, settings: dict[str, str]) -> None:
        """Copy the product.

        settings: with DATABASE_URL, it starts no engines
        """
        self.directory = Path(tempfile.mkdtemp(prefix="saas-faults-"))
        self.directory.chmod(0o755)
        self.root = self.directory / "clone"
        shutil.copytree(ROOT, self.root, ignore=NOT_COPIED)
        self.port = ports.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"API_PORT": str(self.port), **OPEN, **settings}
        is_distributed = IS_DISTRIBUTED and "DATABASE_URL" not in settings
        self.distributed = DistributedEngines(self.root) if is_distributed else None
        self.log = self.directory / "log"
        self.kills = 0
        self.random = random.Random(int(os.environ.get("FAULTS_SEED", "1")))
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start the product and wait until it serves."""
        if self.distributed:
            self.distributed.start()
            self.settings |= self.distributed.settings
        environment = {**os.environ, **self.settings}
        command = [sys.executable, "-m", "flask", "dev", "up", "--no-demo"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=self.root, env=environment, stdout=out, stderr=out)
        wait_until(self._is_announced, 90, "READY")

    def _is_announced(self) -> bool:
        output = self.log.read_text()
        assert self.process is not None
        assert self.process.poll() is None, output
        return "READY " in output

    def down(self) -> None:
        """Stop the product and remove its directory."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            self.process.send_signal(signal.SIGTERM)  # the second signal stops at once
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.distributed:
            self.distributed.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pid(self, name: str) -> int:
        """Return the process id of a supervised process: web, worker, scheduler, postgres or redis (of the queue)."""
        if self.distributed and name in ("postgres", "redis"):
            return self.distributed.pid(name)
        return int((self.root / "instance" / "run" / f"{name}.pid").read_text())

    def pids(self, role: str) -> list[int]:
        """Return the process ids of a role: a supervised process, "web child", "worker child" or "horse".

        "redis" is that of the queue and those of the limits.
        """
        try:
            if role in ("web child", "worker child"):
                return [child.pid for child in psutil.Process(self.pid(role.split(maxsplit=1)[0])).children()]
            if role == "horse":
                children = psutil.Process(self.pid("worker")).children()
                return [horse.pid for child in children for horse in child.children()]
            nodes = self._nodes() if role == "redis" else ()
            return [self.pid(role), *(node.process.pid for node in nodes)]
        except (OSError, psutil.NoSuchProcess, ValueError):
            return []

    def kill(self, role: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to a random process of a role; False when there is none."""
        pids = [pid for pid in self.pids(role) if role not in SUPERVISED or _age(pid) > GROWN_SECONDS]
        if not pids:
            return False
        try:
            os.kill(self.random.choice(pids), number)
        except ProcessLookupError:
            return False
        self.kills += number == signal.SIGKILL
        return True

    def storm(self, roles: tuple[str, ...], count: int, pause: tuple[float, float]) -> None:
        """Kill random processes of the roles `count` times."""
        target = self.kills + count
        ends_at = time.monotonic() + 60 + 10 * count
        while self.kills < target:
            assert time.monotonic() < ends_at, f"only {self.kills} kills"
            self.kill(self.random.choice(roles))
            time.sleep(self.random.uniform(*pause))

    def is_ready(self) -> bool:
        """Whether the product is ready, including Redis."""
        try:
            response = requests.get(f"{self.url}/readyz", timeout=2)
        except requests.RequestException:
            return False
        if response.status_code != 200:
            return False
        report = response.json()
        return {report["redis"], report.get("limits_redis", "ok")} == {"ok"}

    @property
    def engine_settings(self) -> dict[str, str]:
        """The settings of another host on the same engines."""
        if self.distributed:
            return self.distributed.settings
        database_url, redis_url = instance.engine_urls(self.root / "instance")
        owner_url = instance.owner_database_url(self.root / "instance")
        return {"DATABASE_URL": database_url, "DATABASE_OWNER_URL": owner_url, "REDIS_URL": redis_url}

    @property
    def queue_url(self) -> str:
        """The address of the queue's Redis."""
        return Engines(self.root / "instance", names=("redis",)).redis_url

    def redis_clients(self) -> list[redis.Redis]:
        """A client of each Redis: of the queue, and of each node of the limits."""
        return [redis.Redis.from_url(self.queue_url), *(node.client() for node in self._nodes())]

    def _nodes(self) -> Sequence[RedisServer]:
        return self.distributed.nodes if self.distributed else ()

    def database(self) -> Any:
        """A connection that sees every row."""
        engines = Engines(self.root / "instance", names=("postgres",))
        return engines.postgres.superuser("saas")

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Execute a statement and return its rows, if it has any."""
        try:
            connection = self.database()
        except psycopg2.OperationalError:
            wait_until(self.is_ready, 60, "ready")
            connection = self.database()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()
