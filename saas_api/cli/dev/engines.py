"""The engines of an instance, owned by one process at a time, and a background process that owns them."""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Self

from saas_api.cli.dev import host
from saas_api.cli.dev.host import EngineError
from saas_api.cli.dev.servers import POSTGRES_MAJOR, EmbeddedPostgres, EmbeddedRedis, EmbeddedServer
from saas_api.cli.dev.supervisor import RestartLimitReached, Supervisor
from saas_api.settings import instance

STOP_SECONDS = 60
_STARTED = b"ok"


class Engines:
    """The engines of one instance, owned by one process at a time.

    directory: of data, logs and sockets
    is_durable: False for tests: a crash of the machine may lose data
    names: the engines that the instance runs
    """

    def __init__(
        self, directory: Path, *, is_durable: bool = True, names: tuple[str, ...] = ("postgres", "redis")
    ) -> None:
        self.instance = directory.absolute()
        self.home = instance.engine_directory(directory)
        self.run = instance.socket_directory(directory)
        self.database_url, self.redis_url = instance.engine_urls(directory)
        self.owner_url = instance.owner_database_url(directory)
        self.postgres = EmbeddedPostgres(self.home, self.run, is_durable=is_durable)
        self.redis = EmbeddedRedis(self.home, self.run, is_durable=is_durable)
        self.running: list[EmbeddedServer] = [engine for engine in (self.postgres, self.redis) if engine.name in names]
        self._lock: int | None = None

    def acquire(self) -> None:
        """Become the owner of the instance.

        raises: EngineError when another process is
        """
        if self.running and self._lock is None:
            self._create_directories()
            self._acquire_lock()

    def start(self) -> None:
        """Become the owner of the instance and start its engines.

        raises: EngineError
        """
        if not self.running:
            return
        self.acquire()
        try:
            for engine in self.running:
                engine.start()
        except BaseException:
            self.stop()
            raise
        self._write_summary()

    def stop(self) -> None:
        """Stop the engines, Redis first, and release the instance."""
        for engine in reversed(self.running):
            engine.stop()
        (self.home / "redis" / "redis.pid").unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def owner_pid(self) -> int | None:
        """Id of the process that owns the instance; None when no process does."""
        path = self.home / "engines.lock"
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return host.read_pid(path)
        finally:
            os.close(lock)
        return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _create_directories(self) -> None:
        try:
            for directory in (self.instance, self.home.parent, self.home):
                directory.mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o755)
            for directory in (self.home / "log", self.home / "pg", self.home / "redis", self.run):
                host.make_engine_directory(directory, 0o700)
        except OSError as error:
            raise EngineError(f"{error.filename} cannot be used by this user: {error.strerror}") from None
        if self.home != self.instance:
            self.home.parent.chmod(0o755)
            sys.stderr.write(f"The engines' data is in {self.home}: {self.instance} cannot be reached without root.\n")

    def _acquire_lock(self) -> None:
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

    def _write_summary(self) -> None:
        summary = {"postgres": POSTGRES_MAJOR, "sockets": str(self.run), "data": str(self.home)}
        (self.instance / "engines.json").write_text(json.dumps(summary, indent=1) + "\n")


def start_owner_process(engines: Engines) -> int:
    """Start the engines in a process that outlives this one.

    returns: its id, once the engines answer
    raises: EngineError
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_owner_process(engines, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome = pipe.read()
    if outcome != _STARTED:
        os.waitpid(pid, 0)
        raise EngineError(outcome.decode() or "the process that was to own the engines ended")
    return pid


def stop_owner_process(engines: Engines) -> int | None:
    """Stop the process that owns the engines, which stops them.

    returns: its id; None when no process owns them
    raises: EngineError when it does not end
    """
    pid = engines.owner_pid()
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise EngineError(f"process {pid} belongs to another user, who has to stop it") from None
    except ProcessLookupError:
        return None
    deadline = time.monotonic() + STOP_SECONDS
    while engines.owner_pid() == pid:
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid} does not end within {STOP_SECONDS} s; look at {engines.home / 'log'}")
        time.sleep(0.05)
    return pid


def _run_owner_process(engines: Engines, writer: int) -> None:
    status = 1
    try:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(devnull, descriptor)
        engines.start()
        supervisor = Supervisor(engines.run, [*engines.running], [])
        supervisor.start()
        os.write(writer, _STARTED)
        os.close(writer)
        try:
            supervisor.watch()
        finally:
            supervisor.stop()
            engines.stop()
        status = 0
    except (EngineError, RestartLimitReached) as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(status)
