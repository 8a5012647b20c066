"""The deadline of a connection: one thread shuts the sockets whose time is up.

A time-out of each read would let an answer drip for ever.
"""

import heapq
import itertools
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any


class Watch:
    """Sockets and the instants at which they are shut."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Any]] = []
        self._done: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def over(self, watched: socket.socket, ends_at: float) -> "_Guard":
        """Watch a socket for the length of a `with` block."""
        with self._changed:
            number = next(self._numbers)
            heapq.heappush(self._due, (ends_at, number, watched))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()
        return _Guard(self, number)

    def forget(self, number: int) -> None:
        """Let a socket go."""
        with self._changed:
            self._done.add(number)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                ends_at, number, watched = self._due[0]
                left = ends_at - time.monotonic()
                if left > 0 and number not in self._done:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._due)
                if number in self._done:
                    self._done.discard(number)
                    continue
            _shut(watched)


def _shut(watched: socket.socket) -> None:
    try:
        socket.socket.shutdown(watched, socket.SHUT_RDWR)  # below TLS: its reader sees the end and nothing else
    except OSError:
        return


@dataclass
class _Guard:
    watch: Watch
    number: int

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.watch.forget(self.number)
