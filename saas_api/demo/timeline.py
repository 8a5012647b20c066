"""The timeline of the demo: steps that run in the order of their instants, with the clock set to each."""

import heapq
import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from itertools import count

import click

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession

TimelineStep = Callable[[], object]


class Timeline:
    """Steps between the first day of the demo and now.

    days: > 0
    seed: the same seed on the same day gives the same random numbers
    """

    def __init__(self, days: int, seed: int) -> None:
        self.seed = seed
        self.ends_at = clock.now()
        self.begins_at = (self.ends_at - timedelta(days=days)).replace(hour=7, minute=0, second=0, microsecond=0)
        self._steps: list[tuple[datetime, int, TimelineStep]] = []
        self._order = count()

    def random(self, *names: object) -> random.Random:
        """A generator whose numbers depend on the seed and the names alone."""
        return random.Random(":".join(map(str, (self.seed, *names))))  # noqa: S311 - fills a demo, guards nothing

    def schedule(self, at: datetime, step: TimelineStep) -> None:
        """Run a step at an instant; a step after the end of the timeline is left out."""
        if at <= self.ends_at:
            heapq.heappush(self._steps, (at, next(self._order), step))

    def run(self) -> None:
        """Run all steps, including those that steps schedule; shows progress on stderr."""
        total = int((self.ends_at - self.begins_at).total_seconds()) + 1
        done = 0
        try:
            with click.progressbar(length=total, label="Making demo data", file=sys.stderr) as bar:
                while self._steps:
                    at, _, step = heapq.heappop(self._steps)
                    clock.freeze_time(at)
                    step()
                    elapsed = max(done, int((at - self.begins_at).total_seconds()))
                    bar.update(elapsed - done)
                    done = elapsed
                bar.update(total - done)
        finally:
            clock.freeze_time(None)


def demo_session() -> AbstractContextManager[SystemSession]:
    """A transaction across organizations, for demo data."""
    return tenancy.system_session("demo.seed")
