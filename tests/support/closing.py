"""Processes that run `flask billing close`, several at once if need be, and may be killed."""

import json
from dataclasses import dataclass
from typing import Any

from tests.support import forks


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


@dataclass(frozen=True)
class Closer:
    """Starts closing processes on the test's engines."""

    config: dict[str, Any]

    def close(self, at: str, *faults: str) -> list[Run]:
        """One process for each fault, all at the same time; an empty fault is none."""
        environment = {**forks.engines_of(self.config), "APP_FAULTS": "1"}
        environments = [{**environment, "FAULT": fault} for fault in faults or ("",)]
        done = forks.run_flask_at_once(("billing", "close", "--json", "--at", at), environments)
        return [Run(one.returncode, one.stdout, one.stderr) for one in done]
