"""Batches of one organization, written in transactions that the threads of a process share.

Most of what a small batch costs is its commit and its round trip. While MAX_TRANSACTIONS are being written, other
batches wait; a thread that has written wakes the first of them, which writes all that wait at that moment. There
is neither a thread nor a timer for it, so a process with one call at a time writes each batch at once.

What one batch does never changes the result of another: a shared transaction that fails for any reason has written
nothing, or its connection broke and the outcome is unknown. Then each batch is executed again by itself, in its own
thread.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from enum import Enum, auto
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saas_api.core.db import cells, engine, tenancy
from saas_api.core.db.prepared import Statement

# A batch that has to wait, such as for a period that is being closed, must not hold up other organizations.
_WAIT_FOR_NO_LOCK: Statement = ("SELECT set_config('lock_timeout', '10ms', true)", {})
MAX_TRANSACTIONS = 2
"""At the same time, of one process. With one, every batch waits for two commits; with more, fewer batches share one."""


def write(organization_id: UUID, statements: Sequence[Statement]) -> None:
    """Execute statements of one organization as one transaction, which other batches of the process may share.

    As `engine.execute_batch`, the batch runs at least once, and its statements must be idempotent.
    statements: without results and settings of the transaction
    raises: as `engine.execute_batch`
    """
    batch = [tenancy.tenant_scope_statement(organization_id), *statements]
    if not cells.are_several():
        _write(batch)
        return
    with cells.use(cells.cell_of(organization_id)):
        _write(batch)


def _write(batch: Sequence[Statement]) -> None:
    if not writer_of(engine.current_engine()).write(batch):
        engine.execute_batch(batch)


class _Turn(Enum):
    """What a waiting thread does next.

    GIVE_UP: the pool is full, and was waited for long enough
    """

    WRITE_FOR_ALL = auto()
    RETURN = auto()
    WRITE_ALONE = auto()
    GIVE_UP = auto()


class WaitingBatch:
    """A batch whose thread waits for its turn."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.turn = _Turn.WRITE_FOR_ALL
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self) -> _Turn:
        self._gate.acquire()
        return self.turn

    def go_on(self, turn: _Turn) -> None:
        self.turn = turn
        self._gate.release()


class GroupWriter:
    """Writes the batches of a process on one engine.

    waiting: batches that no thread writes yet
    writing: number of threads that write
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting: list[WaitingBatch] = []
        self.writing = 0

    def write(self, statements: Sequence[Statement]) -> bool:
        """Write a batch with those of other threads; False if its caller has to execute it alone.

        raises: PoolTimeout
        """
        batch = WaitingBatch(statements)
        with self._lock:
            is_free = self.writing < MAX_TRANSACTIONS
            if is_free:
                self.writing += 1
            else:
                self.waiting.append(batch)
        if is_free:  # no batch waits: a thread that finishes either wakes a waiting one or finds none
            turn = self._write_group([batch])
        else:
            turn = batch.wait()
            if turn is _Turn.WRITE_FOR_ALL:
                turn = self._write_group([batch, *self._take_waiting()])
        if turn is _Turn.GIVE_UP:
            raise PoolTimeout("the pool is full")
        return turn is _Turn.RETURN

    def _take_waiting(self) -> list[WaitingBatch]:
        with self._lock:
            waiting, self.waiting = self.waiting, []
        return waiting

    def _write_group(self, group: Sequence[WaitingBatch]) -> _Turn:
        """Write batches, the first of which is that of this thread."""
        statements = [_WAIT_FOR_NO_LOCK, *(statement for batch in group for statement in batch.statements)]
        turn = _Turn.WRITE_ALONE  # where the transaction failed, and each batch raises what concerns it
        try:
            with contextlib.suppress(Exception):
                turn = _send(statements)
        finally:
            self._hand_over()
            for batch in group[1:]:
                batch.go_on(turn)
        return turn

    def _hand_over(self) -> None:
        """Let the first of the waiting threads write for all of them."""
        with self._lock:
            if self.waiting:
                self.waiting.pop(0).go_on(_Turn.WRITE_FOR_ALL)
            else:
                self.writing -= 1


def _send(statements: Sequence[Statement]) -> _Turn:
    try:
        engine.send_batch(statements)
    except PoolTimeout:
        return _Turn.GIVE_UP
    return _Turn.RETURN


@cache
def writer_of(_engine: sa.Engine) -> GroupWriter:
    """The writer of this process for a database."""
    return GroupWriter()


os.register_at_fork(after_in_child=writer_of.cache_clear)
"""A forked process has no other threads: one that was writing would be waited for in vain."""
