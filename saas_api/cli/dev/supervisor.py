"""Supervision of the processes of `make run`: restarts after crashes and code changes, and a clean stop."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from saas_api.cli.dev.host import EngineError
from saas_api.core import processes

POLL_SECONDS = 1.0
RESTART_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0)
SLOW_RESTART_DELAYS = (2.0, *(5.0,) * 15)
"""For code under development: these delays last over a minute, so a process that cannot start is retried for ever."""
CRASH_WINDOW_SECONDS = 60
MIN_UPTIME_SECONDS = 5.0
STOP_SECONDS = 30
_WATCHED_SUFFIXES = {".py", ".lua", ".html", ".txt"}


class SourceWatcher:
    """Detects changes of the product's source files.

    root: of the repository
    """

    def __init__(self, root: Path) -> None:
        self._folders = [root / "saas_api", root / "templates"]
        self._files = [root / "config.py", root / "wsgi.py", root / "serve.py", root / "gunicorn.conf.py"]
        self._modified_at = self._read_times()
        self._polled_at = time.monotonic()

    def has_changed(self) -> bool:
        """Whether a file was written, created or removed since the last call that returned True."""
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return False
        self._polled_at = time.monotonic()
        before, self._modified_at = self._modified_at, self._read_times()
        return before != self._modified_at

    def _read_times(self) -> dict[Path, int]:
        paths = [path for folder in self._folders for path in folder.rglob("*") if path.suffix in _WATCHED_SUFFIXES]
        times = {}
        for path in (*paths, *self._files):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is replacing it
                continue
        return times


class SupervisedProcess(Protocol):
    """A process that the supervisor keeps alive: of the application, or an engine."""

    name: str

    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def last_output(self) -> str: ...


class ChildProcess:
    """One process of the application; its output is passed on with its name before each line."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._lines: collections.deque[str] = collections.deque(maxlen=20)
        self._reader: threading.Thread | None = None
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the process runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> None:
        """Start the process in its own session, so that Ctrl-C reaches the supervisor alone."""
        self.process = subprocess.Popen(  # noqa: S603 - our own commands
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **self._environment},
            start_new_session=True,
            preexec_fn=processes.parent_death_signal(signal.SIGTERM),  # noqa: PLW1509 - only prctl, from the main thread
        )
        self._reader = threading.Thread(target=self._pass_on, args=(self.process,), daemon=True)
        self._reader.start()

    def last_output(self) -> str:
        """The last lines of output."""
        return "\n".join(self._lines)

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole session, because a killed master leaves children behind."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def wait(self) -> None:
        """Wait until the process has ended and its last line is passed on."""
        if self.process is not None and self._reader is not None:
            self.process.wait()
            self._reader.join(1)

    def _pass_on(self, process: "subprocess.Popen[str]") -> None:
        if process.stdout is None:
            return
        with process.stdout:
            for line in process.stdout:
                self._lines.append(line.rstrip())
                sys.stdout.write(f"{self.name:<9} | {line}")
                sys.stdout.flush()


class RestartLimitReached(Exception):
    """A process died too often; the message contains its last output."""


class Supervisor:
    """Keeps engines and children alive until a signal.

    run: directory of the pid files, which users and tests read
    delays: seconds before the first, second, ... restart within a minute; a further death stops everything
    """

    def __init__(
        self,
        run: Path,
        engines: list[SupervisedProcess],
        children: list[ChildProcess],
        delays: tuple[float, ...] = RESTART_DELAYS,
    ) -> None:
        self._run = run
        self._engines = engines
        self._children = children
        self._delays = delays
        self._deaths: dict[str, list[float]] = collections.defaultdict(list)
        self._restart_at: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        self._pids: dict[str, int] = {}
        self._signals = 0

    def start(self, *children: ChildProcess) -> None:
        """Start the given children, or all of them; the engines run already."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for child in children or self._children:
            self._started_at[child.name] = time.monotonic()
            child.start()
        self._write_pids()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has arrived."""
        return self._signals > 0

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Restart processes that die, until a signal or until a condition holds.

        raises: RestartLimitReached when a process has died too often within a minute
        """
        while not self.is_stopping and not until():
            for process in (*self._engines, *(child for child in self._children if child.process)):
                self._check(process)
            self._write_pids()
            time.sleep(0.1)

    def restart(self) -> None:
        """Stop all children and start them again, with no deaths counted."""
        self._stop_children()
        self._deaths.clear()
        self._restart_at.clear()
        self.start()

    def stop(self) -> None:
        """Stop the children, gracefully first; the engines are stopped by their owner."""
        self._stop_children()
        for name in self._pids:
            (self._run / f"{name}.pid").unlink(missing_ok=True)

    def _stop_children(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(child.pid for child in self._children) and time.monotonic() < deadline and self._signals < 2:
            time.sleep(0.05)
        for child in self._children:
            child.signal(signal.SIGKILL)
            child.wait()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _check(self, process: SupervisedProcess) -> None:
        """Restart a process that is due for it, or schedule the restart of one that has died."""
        now, name = time.monotonic(), process.name
        if process.pid is not None:
            return
        if name in self._restart_at:
            if now >= self._restart_at[name]:
                del self._restart_at[name]
                with contextlib.suppress(EngineError):
                    self._started_at[name] = now
                    process.start()
            return
        recent = [died_at for died_at in self._deaths[name] if now - died_at < CRASH_WINDOW_SECONDS]
        if now - self._started_at.get(name, now) >= MIN_UPTIME_SECONDS:
            recent = []  # the process worked, so this is no crash loop
        deaths = self._deaths[name] = [*recent, now]
        if len(deaths) > len(self._delays):
            raise RestartLimitReached(f"{name} died {len(deaths)} times within a minute:\n{process.last_output()}")
        if isinstance(process, ChildProcess):
            process.signal(signal.SIGTERM)
        delay = self._delays[len(deaths) - 1]
        sys.stderr.write(f"{name} died; starting it again in {delay} s\n")
        self._restart_at[name] = now + delay

    def _write_pids(self) -> None:
        for process in (*self._engines, *self._children):
            pid = process.pid
            if pid is not None and self._pids.get(process.name) != pid:
                path = self._run / f"{process.name}.pid"
                draft = path.with_suffix(".new")
                draft.write_text(f"{pid}\n")
                draft.rename(path)
                self._pids[process.name] = pid
