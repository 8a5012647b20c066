"""Supervisor, ChildProcess, restart on code changes."""

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

from saas_api.cli.dev import host
from saas_api.cli.dev.host import EngineError

POLL_SECONDS = 1.0
_WATCHED_SUFFIXES = {".py", ".lua", ".html", ".txt"}


class SourceWatcher:
    """The files a running product is made of.

    root: of the repository
    """

    def __init__(self, root: Path) -> None:
        self._folders = [root / "saas_api", root / "templates"]
        self._files = [root / "config.py", root / "wsgi.py", root / "gunicorn.conf.py"]
        self._seen = self._times()
        self._looked_at = time.monotonic()

    def has_changed(self) -> bool:
        """Whether a file was written, made or removed; says so once for each change."""
        if time.monotonic() - self._looked_at < POLL_SECONDS:
            return False
        self._looked_at = time.monotonic()
        before, self._seen = self._seen, self._times()
        return before != self._seen

    def _times(self) -> dict[Path, int]:
        found = [path for folder in self._folders for path in folder.rglob("*") if path.suffix in _WATCHED_SUFFIXES]
        times = {}
        for path in (*found, *self._files):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is just replacing it
                continue
        return times


RESTART_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0)
SLOW_RESTART_DELAYS = (2.0, *(5.0,) * 15)
"""For code that is being written: what cannot start is tried again for ever, since no minute holds so many tries."""
CRASH_WINDOW_SECONDS = 60
MIN_UPTIME_SECONDS = 5.0
STOP_SECONDS = 30


class SupervisedProcess(Protocol):
    """What the supervisor keeps alive: a process of the application or an engine."""

    name: str

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""

    def start(self) -> None:
        """Start it, or start it again."""

    def last_output(self) -> str:
        """What it said last."""


class ChildProcess:
    """One process of the application; its lines come out with its name before them."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._lines: collections.deque[str] = collections.deque(maxlen=20)
        self._reader: threading.Thread | None = None
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> None:
        """Start it in a session of its own: a Ctrl-C reaches the supervisor alone."""
        self.process = subprocess.Popen(  # noqa: S603 - our own commands
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **self._environment},
            start_new_session=True,
            preexec_fn=host.set_parent_death_signal(signal.SIGTERM),  # noqa: PLW1509 - only prctl, from the main thread
        )
        self._reader = threading.Thread(target=self._pass_on, args=(self.process,), daemon=True)
        self._reader.start()

    def last_output(self) -> str:
        """Its last lines."""
        return "\n".join(self._lines)

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole session: a master that was killed leaves children behind."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def wait(self) -> None:
        """Wait until it has ended and its last line is passed on."""
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
    """Something died too often; the message carries its last words."""


class Supervisor:
    """Keeps engines and children alive until it is told to stop.

    run: directory of the pid files, which are hints for people and tests
    delays: seconds before the first, second, ... new start within a minute; a further death ends everything
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
        self._due: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._pids: dict[str, int] = {}
        self._signals = 0

    def start(self, *children: ChildProcess) -> None:
        """Start children of this supervisor, or all of them, beside engines that run already."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for child in children or self._children:
            self._started[child.name] = time.monotonic()
            child.start()
        self._write_pids()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal came."""
        return self._signals > 0

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Restart what dies until told to stop, or until something is so.

        raises: GaveUp when one process has died too often within a minute
        """
        while not self.is_stopping and not until():
            for thing in (*self._engines, *(child for child in self._children if child.process)):
                self._look_at(thing)
            self._write_pids()
            time.sleep(0.1)

    def restart(self) -> None:
        """End all children and start them again, as new ones that never died."""
        self._end_children()
        self._deaths.clear()
        self._due.clear()
        self.start()

    def stop(self) -> None:
        """End web, worker and scheduler, gracefully first; the engines are stopped by their owner."""
        self._end_children()
        for name in self._pids:
            (self._run / f"{name}.pid").unlink(missing_ok=True)

    def _end_children(self) -> None:
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

    def _look_at(self, thing: SupervisedProcess) -> None:
        now = time.monotonic()
        if thing.pid is not None:
            return
        if thing.name in self._due:
            if now >= self._due[thing.name]:
                del self._due[thing.name]
                with contextlib.suppress(EngineError):
                    self._started[thing.name] = now
                    thing.start()
            return
        recent = [at for at in self._deaths[thing.name] if now - at < CRASH_WINDOW_SECONDS]
        if now - self._started.get(thing.name, now) >= MIN_UPTIME_SECONDS:
            recent = []  # it worked: whatever ended it, it is no crash loop
        deaths = self._deaths[thing.name] = [*recent, now]
        if len(deaths) > len(self._delays):
            raise RestartLimitReached(f"{thing.name} died {len(deaths)} times within a minute:\n{thing.last_output()}")
        if isinstance(thing, ChildProcess):
            thing.signal(signal.SIGTERM)
        delay = self._delays[len(deaths) - 1]
        sys.stderr.write(f"{thing.name} died; starting it again in {delay} s\n")
        self._due[thing.name] = now + delay

    def _write_pids(self) -> None:
        for thing in (*self._engines, *self._children):
            pid = thing.pid
            if pid is not None and self._pids.get(thing.name) != pid:
                path = self._run / f"{thing.name}.pid"
                draft = path.with_suffix(".new")
                draft.write_text(f"{pid}\n")
                draft.rename(path)
                self._pids[thing.name] = pid
