"""Collects usage events and sends them in batches, in the background, without losing one when the process ends."""

from __future__ import annotations

import _thread
import asyncio
import atexit
import json
import logging
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Callable, Optional

import httpx

from saas_api_client import _operations, errors, events, models
from saas_api_client._clients import AsyncClient, Client

log = logging.getLogger("saas_api_client")

MAX_BATCH_EVENTS = 1_000
MAX_BATCH_BYTES = 1_000_000
"""Of the platform's 1 MiB."""
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class RejectedEvent:
    """An event that is not sent again.

    event: as it was sent; sending it once more, by hand, is safe
    code, message: the platform's reason; code NOT_SENT when the process ended before the platform answered
    """

    event: Mapping[str, Any]
    code: str
    message: str


def log_rejected(rejected: RejectedEvent) -> None:
    """Log a rejected event with its content, from which it can be recorded by hand."""
    log.error("usage event rejected: %s: %s: %s", rejected.code, rejected.message, json.dumps(rejected.event))


class EventBuffer:
    """Usage events that wait in memory to be sent by a thread. Threads may share one.

    A batch is kept and sent again, with the same ids, until the platform answers. `close`, the end of the interpreter
    and SIGTERM (where nothing else handles it) send what is left. Only SIGKILL and a lost machine lose events.

    max_events: that wait at most; at this size `record` waits for space
    batch_events: sent in one request at most
    flush_seconds: an event waits this long for others
    close_seconds: how long `close` and the end of the process wait for the platform
    on_rejected: is called with each event that the platform refuses, or did not answer before the end; unless given,
        their JSON is logged
    """

    def __init__(
        self,
        client: Client,
        *,
        max_events: int = 10_000,
        batch_events: int = 500,
        flush_seconds: float = 1.0,
        close_seconds: float = 20.0,
        on_rejected: Callable[[RejectedEvent], None] = log_rejected,
    ) -> None:
        self._client = client.copy()  # the program may close its own before the buffer is empty
        self._max_events = max_events
        self._batch_events = min(batch_events, max_events, MAX_BATCH_EVENTS)
        self._flush_seconds = flush_seconds
        self._close_seconds = close_seconds
        self._on_rejected = on_rejected
        self._reset()
        _open_buffers.add(self)
        _handle_sigterm()

    def _reset(self) -> None:
        """Begin empty and without a thread: a new buffer, or that of a forked process, whose parent sends its own."""
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._in_flight: list[bytes] = []
        self._flushing = 0
        self._is_closing = False
        self._gives_up_at: Optional[float] = None
        self._thread: Optional[threading.Thread] = None

    def record(self, event: events.Event, *, wait_seconds: Optional[float] = 10.0) -> str:
        """Take an event and return its id.

        wait_seconds: how long to wait for space when the buffer is full; None without end
        raises: BufferFullError, BufferClosedError; TypeError or ValueError for what cannot be sent
        """
        encoded = events.encode(event)
        if len(encoded) > MAX_BATCH_BYTES:
            raise ValueError("an event has at most a megabyte")
        with self._changed:
            has_space = self._changed.wait_for(lambda: self._is_closing or self._size < self._max_events, wait_seconds)
            if self._is_closing:
                raise errors.BufferClosedError("the buffer is closed")
            if not has_space:
                raise errors.BufferFullError(f"{self._max_events} events are waiting to be sent")
            if self._thread is None:
                thread = threading.Thread(target=self._send_all, name="saas-api-events", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting.append(encoded)
            if len(self._waiting) in (1, self._batch_events):
                self._changed.notify_all()
        return event.id

    def flush(self, timeout_seconds: Optional[float] = None) -> bool:
        """Send what is waiting now, and return whether all of it was sent in time."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._size == 0, timeout_seconds)
            finally:
                self._flushing -= 1

    def close(self, timeout_seconds: Optional[float] = None) -> bool:
        """Take no more events, send what is left, and return whether all of it was sent in time.

        timeout_seconds: `close_seconds` of the buffer unless given
        """
        limit_seconds = self._close_seconds if timeout_seconds is None else timeout_seconds
        with self._changed:
            self._is_closing = True
            self._gives_up_at = time.monotonic() + limit_seconds
            self._changed.notify_all()
            is_sent = self._changed.wait_for(lambda: self._size == 0, limit_seconds)
            left = [*self._in_flight, *self._waiting]
            self._in_flight = []
            self._waiting.clear()
        if is_sent and self._thread is not None:
            self._thread.join(limit_seconds)
        _open_buffers.discard(self)
        for encoded in left:
            self._reject(RejectedEvent(json.loads(encoded), "NOT_SENT", "the platform did not answer before the end"))
        return is_sent

    @property
    def unsent(self) -> int:
        """The number of events that the platform has not answered yet."""
        with self._changed:
            return self._size

    def __enter__(self) -> EventBuffer:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def _size(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def _send_all(self) -> None:
        try:
            while (batch := self._next_batch()) and self._send(batch):
                with self._changed:
                    self._in_flight = []
                    self._changed.notify_all()
        finally:
            self._client.close()

    def _next_batch(self) -> list[bytes]:
        """Wait for events and return a batch; an empty one when the buffer is closed and nothing is left."""
        with self._changed:
            while not self._waiting:
                if self._is_closing:
                    return []
                self._changed.wait()
            self._changed.wait_for(self._is_due, self._flush_seconds)
            batch: list[bytes] = []
            size = 0
            while self._waiting and len(batch) < self._batch_events:
                size += len(self._waiting[0]) + 1
                if batch and size > MAX_BATCH_BYTES:
                    break
                batch.append(self._waiting.popleft())
            self._in_flight = batch
            return batch

    def _is_due(self) -> bool:
        return self._is_closing or self._flushing > 0 or len(self._waiting) >= self._batch_events

    def _send(self, batch: Sequence[bytes]) -> bool:
        """Send a batch until the platform answers; return False when `close` gives up before."""
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            try:
                answer = self._client.call(_operations.record_batch(batch))
            except errors.ApiError as error:
                if error.status in (400, 413, 422):  # the same batch would be refused again
                    return self._send_halves(batch, error)
                log.warning("usage events were not taken and are sent again: %s", error)
                wait_seconds = max(wait_seconds, error.retry_after_seconds or 0.0)
            except errors.PlatformUnreachableError as error:
                log.warning("usage events were not taken and are sent again: %s", error)
            except Exception:
                log.exception("usage events could not be sent and are sent again")
            else:
                self._report(batch, answer)
                return True
            if not self._wait_before_retry(wait_seconds):
                return False
            wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)

    def _wait_before_retry(self, seconds: float) -> bool:
        """Wait, less when the buffer begins to close, and return whether there is time for another attempt."""
        with self._changed:
            was_closing = self._is_closing
            seconds = min(seconds, 1.0) if was_closing else seconds
            self._changed.wait_for(lambda: self._is_closing != was_closing, seconds)
            return self._gives_up_at is None or time.monotonic() < self._gives_up_at

    def _send_halves(self, batch: Sequence[bytes], error: errors.ApiError) -> bool:
        """Find the event because of which a whole batch is refused; the others are sent."""
        if len(batch) == 1:
            self._reject(RejectedEvent(json.loads(batch[0]), error.code, error.message))
            return True
        middle = len(batch) // 2
        return self._send(batch[:middle]) and self._send(batch[middle:])

    def _report(self, batch: Sequence[bytes], answer: models.RecordedEvents) -> None:
        for problem in answer.errors or ():
            self._reject(RejectedEvent(json.loads(batch[problem.index]), problem.code, problem.message))

    def _reject(self, rejected: RejectedEvent) -> None:
        try:
            self._on_rejected(rejected)
        except Exception:
            log.exception("on_rejected failed")
            log_rejected(rejected)


class AsyncEventBuffer:
    """An `EventBuffer` for asyncio: the same thread sends, and no method blocks the event loop.

    http_client: sends the requests instead of one made here
    options: of `EventBuffer`
    """

    def __init__(self, client: AsyncClient, *, http_client: Optional[httpx.Client] = None, **options: Any) -> None:
        settings = client.settings
        blocking = Client(
            settings.base_url,
            settings.token,
            timeout_seconds=settings.timeout_seconds,
            total_timeout_seconds=settings.total_timeout_seconds,
            http_client=http_client,
        )
        self._buffer = EventBuffer(blocking, **options)

    async def record(self, event: events.Event, *, wait_seconds: Optional[float] = 10.0) -> str:
        """Take an event and return its id; `EventBuffer.record`."""
        try:
            return self._buffer.record(event, wait_seconds=0)
        except errors.BufferFullError:
            return await asyncio.to_thread(self._buffer.record, event, wait_seconds=wait_seconds)

    async def flush(self, timeout_seconds: Optional[float] = None) -> bool:
        """Send what is waiting now; `EventBuffer.flush`."""
        return await asyncio.to_thread(self._buffer.flush, timeout_seconds)

    async def aclose(self, timeout_seconds: Optional[float] = None) -> bool:
        """Take no more events and send what is left; `EventBuffer.close`."""
        return await asyncio.to_thread(self._buffer.close, timeout_seconds)

    @property
    def unsent(self) -> int:
        """The number of events that the platform has not answered yet."""
        return self._buffer.unsent

    async def __aenter__(self) -> AsyncEventBuffer:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()


_open_buffers: weakref.WeakSet[EventBuffer] = weakref.WeakSet()


def _close_all() -> None:
    for buffer in list(_open_buffers):
        buffer.close()


def _handle_sigterm() -> None:
    """Send what is left when the process is terminated, unless the program handles SIGTERM itself."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(_signal: int, _frame: Optional[FrameType]) -> None:
    # The interrupted code may hold any lock, so that this handler takes none: a new thread does the work.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _thread.start_new_thread(_close_all_and_end, ())


def _close_all_and_end() -> None:
    try:
        _close_all()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _reset_after_fork() -> None:
    for buffer in list(_open_buffers):
        buffer._reset()  # noqa: SLF001 - of this module


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
