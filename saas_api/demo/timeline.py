"""Steps at an instant, played with the clock set."""

import heapq
import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from itertools import count

import click
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.db import tenancy

TimelineStep = Callable[[], object]


class Timeline:
    """What happens between the demo's first day and the present.

    days: > 0
    seed: the same seed on the same day plays the same
    """

    def __init__(self, days: int, seed: int) -> None:
        self.seed = seed
        self.ends_at = clock.now()
        self.begins_at = (self.ends_at - timedelta(days=days)).replace(hour=7, minute=0, second=0, microsecond=0)
        self._acts: list[tuple[datetime, int, TimelineStep]] = []
        self._order = count()

    def random(self, *names: object) -> random.Random:
        """Chance that is the same for the same names, whatever else is played."""
        return random.Random(":".join(map(str, (self.seed, *names))))  # noqa: S311 - fills a demo, guards nothing

    def schedule(self, at: datetime, act: TimelineStep) -> None:
        """Let something happen at an instant; what would lie in the future does not happen."""
        if at <= self.ends_at:
            heapq.heappush(self._acts, (at, next(self._order), act))

    def run(self) -> None:
        """Let everything happen, what acts put on meanwhile included; shows progress on stderr."""
        span = int((self.ends_at - self.begins_at).total_seconds()) + 1
        past = 0
        try:
            with click.progressbar(length=span, label="Making demo data", file=sys.stderr) as bar:
                while self._acts:
                    at, _, act = heapq.heappop(self._acts)
                    clock.freeze_time(at)
                    act()
                    reached = max(past, int((at - self.begins_at).total_seconds()))
                    bar.update(reached - past)
                    past = reached
                bar.update(span - past)
        finally:
            clock.freeze_time(None)


def demo_session() -> AbstractContextManager[Session]:
    """A transaction of the demo across organizations."""
    return tenancy.system_session("demo.seed")
