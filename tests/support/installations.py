"""Directories for engines, and checks of processes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that the user `nobody` can enter, for tests that run as root."""
    with tempfile.TemporaryDirectory(prefix="saas-api-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
