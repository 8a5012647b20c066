"""Processes that run `flask billing close`, also concurrently, and may be killed by a fault."""

import json
from dataclasses import dataclass
from typing import Any

from tests.support import forks


@dataclass(frozen=True)
class CloseProcess:
    """A `flask billing close` that has ended.

    status: exit code; below 0 the signal that killed it
    """

    status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Any:
        """The printed JSON; an empty result for a process that was killed."""
        return json.loads(self.stdout) if self.stdout else {"invoices": [], "closed": 0}


@dataclass(frozen=True)
class CloseRunner:
    """Runs closing processes on the databases of the test."""

    config: dict[str, Any]

    def close(self, at: str, *faults: str) -> list[CloseProcess]:
        """Run one process for each fault, concurrently; an empty fault is none."""
        environment = {**forks.engines_of(self.config), "APP_FAULTS": "1"}
        environments = [{**environment, "FAULT": fault} for fault in faults or ("",)]
        done = forks.run_flask_at_once(("billing", "close", "--json", "--at", at), environments)
        return [CloseProcess(process.returncode, process.stdout, process.stderr) for process in done]
