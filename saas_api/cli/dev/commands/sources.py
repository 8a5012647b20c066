"""Whether the code has changed since one last looked: by the times of its files, once a second."""

import time
from pathlib import Path

LOOKS_EVERY_SECONDS = 1.0
_KINDS = {".py", ".lua", ".html", ".txt"}


class Sources:
    """The files a running product is made of.

    root: of the repository
    """

    def __init__(self, root: Path) -> None:
        self._folders = [root / "saas_api", root / "templates"]
        self._files = [root / "config.py", root / "wsgi.py", root / "gunicorn.conf.py"]
        self._seen = self._times()
        self._looked_at = time.monotonic()

    def have_changed(self) -> bool:
        """Whether a file was written, made or removed; says so once for each change."""
        if time.monotonic() - self._looked_at < LOOKS_EVERY_SECONDS:
            return False
        self._looked_at = time.monotonic()
        before, self._seen = self._seen, self._times()
        return before != self._seen

    def _times(self) -> dict[Path, int]:
        found = [path for folder in self._folders for path in folder.rglob("*") if path.suffix in _KINDS]
        times = {}
        for path in (*found, *self._files):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is just replacing it
                continue
        return times
