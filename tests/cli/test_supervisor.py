"""The supervisor: restarts dead processes, stops after a crash loop, and stops cleanly on a signal."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saas_api.cli.dev.supervisor import (
    SLOW_RESTART_DELAYS,
    ChildProcess,
    RestartLimitReached,
    SourceWatcher,
    Supervisor,
)
from tests.support.installations import is_alive

SLEEPING = "import time; print('here', flush=True); time.sleep(60)"
IGNORING_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def child(program: str, name: str = "web") -> ChildProcess:
    return ChildProcess(name, [sys.executable, "-c", program], {})


def wait_for_output(process: ChildProcess) -> str:
    deadline = time.monotonic() + 10
    while not process.last_output():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process.last_output()


def test_killed_process_is_restarted_with_its_pid_file(tmp_path: Path) -> None:
    web, worker = child(SLEEPING), child(SLEEPING, "worker")
    supervisor = Supervisor(tmp_path, [], [web, worker])
    supervisor.start()
    try:
        first, other = web.pid, worker.pid
        assert first
        assert (tmp_path / "web.pid").read_text() == f"{first}\n"
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        supervisor.watch(until=lambda: web.pid not in (None, first) or time.monotonic() > deadline)
        assert web.pid not in (None, first)
        assert (tmp_path / "web.pid").read_text() == f"{web.pid}\n"
        assert worker.pid == other
    finally:
        supervisor.stop()
    assert list(tmp_path.iterdir()) == []
    assert web.pid is None


def test_crash_loop_stops_supervision_with_the_last_output(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [], [child("import sys; sys.exit('no luck')")], delays=(0.05, 0.05))
    supervisor.start()
    with pytest.raises(RestartLimitReached, match=r"web died 3 times within a minute:"):
        supervisor.watch()
    supervisor.stop()


def test_restart_replaces_children_and_forgets_deaths(tmp_path: Path) -> None:
    web, broken = child(SLEEPING), child("import sys; sys.exit('no luck')", "worker")
    supervisor = Supervisor(tmp_path, [], [web, broken], delays=(0.0, 0.0))
    supervisor.start()
    try:
        first = web.pid
        for _ in range(3):
            before = broken.process
            supervisor.watch(until=lambda previous=before: broken.process is not previous)
            supervisor.restart()
        assert web.pid not in (None, first)
        assert first
        assert not is_alive(first)
    finally:
        supervisor.stop()


def test_slow_restart_delays_never_reach_the_limit() -> None:
    attempts, seconds = 0, 0.0
    while seconds < 60:
        seconds += SLOW_RESTART_DELAYS[attempts]
        attempts += 1
    assert attempts <= len(SLOW_RESTART_DELAYS)


def test_code_change_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saas_api.cli.dev.supervisor.POLL_SECONDS", 0.0)
    folder = tmp_path / "saas_api" / "core"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("1", encoding="utf-8")
    sources = SourceWatcher(tmp_path)
    assert not sources.has_changed()
    (folder / "two.py").write_text("2", encoding="utf-8")
    assert sources.has_changed()
    assert not sources.has_changed()
    (folder / "one.py").unlink()
    assert sources.has_changed()
    (folder / "notes.md").write_text("no code", encoding="utf-8")
    assert not sources.has_changed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_supervision(tmp_path: Path, number: signal.Signals) -> None:
    web = child(SLEEPING)
    supervisor = Supervisor(tmp_path, [], [web])
    supervisor.start()
    os.kill(os.getpid(), number)
    supervisor.watch()
    supervisor.stop()
    assert web.pid is None


def test_second_signal_kills_without_waiting(tmp_path: Path) -> None:
    web = child(IGNORING_SIGTERM)
    supervisor = Supervisor(tmp_path, [], [web])
    supervisor.start()
    assert wait_for_output(web) == "here"
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    supervisor.watch()
    supervisor.stop()
    assert web.pid is None
    assert web.process
    assert web.process.returncode == -signal.SIGKILL


def test_deaths_after_the_minimum_uptime_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saas_api.cli.dev.supervisor.MIN_UPTIME_SECONDS", 0.3)
    process = child("import time; time.sleep(60)")
    supervisor = Supervisor(tmp_path, [], [process], delays=(0.0,))
    supervisor.start()
    for _ in range(4):
        before = process.pid
        time.sleep(0.4)
        assert process.process is not None
        process.process.kill()
        process.process.wait()
        supervisor.watch(until=lambda previous=before: process.pid not in (None, previous))
    supervisor.stop()
