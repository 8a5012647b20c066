"""What the engines need to know of this machine: users, paths, other processes."""

import contextlib
import ctypes
import hashlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_CLOCK = ("LD_PRELOAD", "DATEFUDGE")  # a clock that is shifted for the application is shifted for its engines


class EngineError(Exception):
    """An engine cannot run; the message is one line for a person."""


def environment() -> dict[str, str]:
    """A clean environment for a server."""
    shifted = {name: os.environ[name] for name in _CLOCK if "DATEFUDGE" in os.environ and name in os.environ}
    return {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "/usr/bin:/bin"), **shifted}


def servant() -> dict[str, Any]:
    """Arguments of Popen that make a server run as somebody without power when we are root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def dies_with_us(number: signal.Signals) -> Callable[[], None] | None:
    """A pre-exec call that has Linux signal the child when we die."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)

    return ask


def is_traversable(path: Path) -> bool:
    """Whether everybody may pass through every existing ancestor of a path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents if parent.exists())


def own_directory(path: Path, mode: int) -> None:
    """Make a directory that belongs to whoever runs the engines."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    path.chmod(mode)
    who = servant()
    if who:
        os.chown(path, who["user"], who["group"])


def short_hash(path: Path) -> str:
    """Eight hex digits that tell one instance from another."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]


def first_number(path: Path) -> int | None:
    """The process id in the first line of a pid file."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().splitlines()[0])
    return None


def end_stranger(pid: int | None, program: str, directory: Path, number: signal.Signals) -> None:
    """End a server that outlived its owner, after making sure that it is that server.

    directory: where that server works
    """
    if pid is None or not _runs(pid, program, directory):
        return
    os.kill(pid, number)
    deadline = time.monotonic() + 30
    while _runs(pid, program, directory):
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid} ({program}) of an earlier start does not end; stop it first")
        time.sleep(0.05)


def _runs(pid: int, program: str, directory: Path) -> bool:
    if sys.platform == "linux":
        process = Path(f"/proc/{pid}")
        try:
            is_it = program.encode() in (process / "cmdline").read_bytes()
            return is_it and (process / "cwd").readlink() == directory.resolve()
        except OSError:
            return False
    asked = ["/bin/ps", "-o", "args=", "-p", str(pid)]
    return program in subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - a number
