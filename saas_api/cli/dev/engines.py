"""The embedded engines of one instance: owned by one process at a time, started and stopped together."""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Self

from saas_api.cli.dev import host
from saas_api.cli.dev.addresses import home, sockets, urls
from saas_api.cli.dev.host import EngineError
from saas_api.cli.dev.servers import POSTGRES_MAJOR, Engine, Postgres, Redis


class Engines:
    """The engines of one instance, owned by one process at a time.

    instance: directory of data, logs, sockets
    is_durable: False for tests: a crash of the machine may lose data
    """

    def __init__(
        self, instance: Path, *, is_durable: bool = True, wanted: tuple[str, ...] = ("postgres", "redis")
    ) -> None:
        self.instance = instance.absolute()
        self.home = home(instance)
        self.run = sockets(instance)
        self.database_url, self.redis_url = urls(instance)
        self.postgres = Postgres(self.home, self.run, is_durable=is_durable)
        self.redis = Redis(self.home, self.run, is_durable=is_durable)
        self.running: list[Engine] = [engine for engine in (self.postgres, self.redis) if engine.name in wanted]
        self._lock: int | None = None

    def own(self) -> None:
        """Make sure that no other process runs the engines of this instance.

        raises: EngineError
        """
        if self.running and self._lock is None:
            self._prepare()
            self._take_lock()

    def start(self) -> None:
        """Own the instance and start its engines.

        raises: EngineError
        """
        if not self.running:
            return
        self.own()
        try:
            for engine in self.running:
                engine.start()
        except BaseException:
            self.stop()
            raise
        self._record()

    def stop(self) -> None:
        """Stop the engines, Redis first, and give the instance up."""
        for engine in reversed(self.running):
            engine.stop()
        (self.home / "redis" / "redis.pid").unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def owner(self) -> int | None:
        """Id of the process that runs the engines of this instance now."""
        path = self.home / "engines.lock"
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return host.first_number(path)
        finally:
            os.close(lock)
        return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare(self) -> None:
        try:
            for directory in (self.instance, self.home.parent, self.home):
                directory.mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o755)
            for part in (self.home / "log", self.home / "pg", self.home / "redis", self.run):
                host.own_directory(part, 0o700)
        except OSError as error:
            raise EngineError(f"{error.filename} cannot be used by this user: {error.strerror}") from None
        if self.home != self.instance:
            self.home.parent.chmod(0o755)
            sys.stderr.write(f"The engines' data is in {self.home}: {self.instance} cannot be reached without root.\n")

    def _take_lock(self) -> None:
        path = self.home / "engines.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text().strip() or "another process"
            os.close(self._lock)
            self._lock = None
            raise EngineError(f"{self.instance} is in use by process {owner}; stop that one first") from None
        os.truncate(self._lock, 0)
        os.write(self._lock, str(os.getpid()).encode())

    def _record(self) -> None:
        facts = {"postgres": POSTGRES_MAJOR, "sockets": str(self.run), "data": str(self.home)}
        (self.instance / "engines.json").write_text(json.dumps(facts, indent=1) + "\n")
