"""Processes that close periods or an organization, also concurrently, and may be killed by a fault."""

import json
from dataclasses import dataclass
from typing import Any

from tests.support import forks


@dataclass(frozen=True)
class CloseProcess:
    """A closing process that has ended.

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
        return self._run(("billing", "close", "--json", "--at", at), faults or ("",))

    def close_organization(self, organization_id: str, *faults: str) -> list[CloseProcess]:
        """Run one `flask organizations close` for each fault, concurrently; an empty fault is none."""
        reason = ("--reason", "asked by the owner")
        return self._run(("organizations", "close", organization_id, *reason, "--json"), faults or ("",))

    def _run(self, arguments: tuple[str, ...], faults: tuple[str, ...]) -> list[CloseProcess]:
        environment = {**forks.engines_of(self.config), "APP_FAULTS": "1"}
        environments = [{**environment, "FAULT": fault} for fault in faults]
        done = forks.run_flask_at_once(arguments, environments)
        return [CloseProcess(process.returncode, process.stdout, process.stderr) for process in done]
