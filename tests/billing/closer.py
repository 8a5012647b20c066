"""A process that has loaded the product and forks; every fork runs `flask billing close` and may be killed."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
HANDED_ON = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


@dataclass(frozen=True)
class Run:
    """How a closing process ended.

    status: its exit code; below 0 the signal that killed it
    """

    status: int
    output: str
    complaints: str

    @property
    def told(self) -> Any:
        """What it printed as JSON; nothing for one that was killed."""
        return json.loads(self.output) if self.output else {"invoices": [], "closed": 0}


class Closer:
    """Starts closing processes, several at once if asked for several faults."""

    def __init__(self, config: dict[str, Any]) -> None:
        environment = {**os.environ, **{name: config[name] for name in HANDED_ON}}
        environment |= {"APP_ENV": "test", "FLASK_SKIP_DOTENV": "1", "APP_FAULTS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.stdout.close()
        self._process.wait(timeout=10)

    def close(self, at: str, *faults: str) -> list[Run]:
        """One process for each fault, all at the same time; an empty fault is none."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([at, faults or ("",)]) + "\n")
        self._process.stdin.flush()
        return [Run(*run) for run in json.loads(self._process.stdout.readline())]


def _serve() -> None:
    import saas_api
    import saas_api.cli  # both are loaded once, before the forks

    assert saas_api
    for line in sys.stdin:
        at, faults = json.loads(line)
        started = [_fork(at, fault) for fault in faults]
        ended = []
        for pid, output, complaints in started:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ended.append([status, *(_read(file) for file in (output, complaints))])
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def _fork(at: str, fault: str) -> tuple[int, Any, Any]:
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - the parent reads and closes them
    pid = os.fork()
    if pid:
        return pid, *files
    for descriptor, file in enumerate(files, start=1):
        os.dup2(file.fileno(), descriptor)
    os.environ["FAULT"] = fault
    sys.argv = ["flask", "billing", "close", "--json", "--at", at]
    from flask.cli import main

    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _read(file: Any) -> str:
    with file:
        file.seek(0)
        return str(file.read().decode())


if __name__ == "__main__":
    _serve()
