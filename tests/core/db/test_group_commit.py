"""Batches that threads write in a shared transaction: each has the result that it would have alone."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import IntegrityError

from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.db import engine, group_commit, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.prepared import Statement
from tests.support import database_pool
from tests.support.billing import create_organization

INSERT = """INSERT INTO messages (organization_id, id, mode, channel, recipient, body, next_at, accepted_at)
VALUES (%(org)s, %(id)s, 'test', 'sms', '+15005550006', '100%%', now(), now())"""
SLEEP_IN_A_GROUP: Statement = (
    "SELECT pg_sleep(CASE current_setting('lock_timeout') WHEN '10ms' THEN 60 ELSE 0 END)",
    {},
)


@pytest.fixture
def one_connection(context: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with database_pool.single_connection(context, monkeypatch):
        yield


@pytest.fixture
def acme(context: Flask) -> UUID:
    return create_organization("Acme", clock.now()).id


@pytest.fixture
def globex(context: Flask) -> UUID:
    return create_organization("Globex", clock.now()).id


def insert(organization_id: UUID, message_id: UUID | None = None, *statements: Statement) -> Callable[[], None]:
    """A call that writes a message, after other statements."""
    row = (INSERT, {"org": organization_id, "id": message_id or ids.new_id()})
    return partial(group_commit.write, organization_id, [*statements, row])


def transactions(organization_id: UUID) -> list[int]:
    """The numbers of messages that were written in one transaction each."""
    sql = sa.text("SELECT count(*) FROM messages GROUP BY xmin::text ORDER BY 1")
    with tenancy.tenant_session(organization_id) as session:
        return list(session.scalars(sql))


def bodies(organization_id: UUID) -> list[str]:
    with tenancy.tenant_session(organization_id) as session:
        return list(session.scalars(sa.text("SELECT body FROM messages")))


def test_batches_that_wait_while_another_is_written_share_a_transaction(
    context: Flask, one_connection: None, acme: UUID
) -> None:
    assert database_pool.call_in_a_group(context, [insert(acme) for _ in range(6)]) == [None] * 6
    assert transactions(acme) == [6]


def test_batches_of_several_organizations_share_a_transaction_and_see_their_own_rows_only(
    context: Flask, one_connection: None, acme: UUID, globex: UUID
) -> None:
    change_all = "UPDATE messages SET body = %(body)s"  # of every organization, if row-level security let it
    calls = []
    for organization_id, name in [(acme, "of Acme"), (globex, "of Globex"), (acme, "of Acme")]:
        batch = [(INSERT, {"org": organization_id, "id": ids.new_id()}), (change_all, {"body": name})]
        calls.append(partial(group_commit.write, organization_id, batch))
    assert database_pool.call_in_a_group(context, calls) == [None] * 3
    assert (bodies(acme), bodies(globex)) == (["of Acme"] * 2, ["of Globex"])


def test_batch_cannot_write_for_another_organization(
    context: Flask, one_connection: None, acme: UUID, globex: UUID
) -> None:
    foreign = partial(group_commit.write, globex, [(INSERT, {"org": acme, "id": ids.new_id()})])
    raised = database_pool.call_in_a_group(context, [insert(acme), insert(acme), foreign, insert(acme)])
    assert [type(error) for error in raised] == [type(None), type(None), sa.exc.ProgrammingError, type(None)]
    assert len(bodies(acme)) == 3


def test_bad_row_fails_alone(context: Flask, one_connection: None, acme: UUID, globex: UUID) -> None:
    taken = ids.new_id()
    calls = [insert(acme, taken), insert(acme), insert(acme, taken), insert(globex), insert(acme)]
    raised = database_pool.call_in_a_group(context, calls)
    [error] = [error for error in raised if error is not None]
    assert error in (raised[0], raised[2])  # whichever is executed later, now that each is by itself
    assert isinstance(error, IntegrityError)
    assert engine.violated_constraint(error) == "messages_pkey"
    assert (len(bodies(acme)), len(bodies(globex))) == (3, 1)


def test_value_that_cannot_be_sent_fails_alone(context: Flask, one_connection: None, acme: UUID) -> None:
    bad = partial(group_commit.write, acme, [("UPDATE messages SET body = %(body)s", {"body": "\x00"})])
    raised = database_pool.call_in_a_group(context, [insert(acme), bad, insert(acme)])
    assert [type(error) for error in raised] == [type(None), ValueError, type(None)]
    assert bodies(acme) == ["100%"] * 2


def test_connection_that_breaks_under_a_group_loses_and_doubles_nothing(
    context: Flask, one_connection: None, superuser: Any, acme: UUID, globex: UUID
) -> None:
    calls = [insert(acme), insert(acme), insert(globex, None, SLEEP_IN_A_GROUP), insert(acme)]
    killed: list[int] = []

    def kill() -> bool:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            killed.extend(pid for (pid,) in cursor.fetchall())
            cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", (killed,))
        return bool(killed)

    killer = threading.Thread(target=database_pool.wait_until, args=(kill,))
    killer.start()
    raised = database_pool.call_in_a_group(context, calls)
    killer.join()
    assert (raised, len(killed)) == ([None] * 4, 1)
    assert (len(bodies(acme)), len(bodies(globex))) == (3, 1)


def test_organization_whose_period_is_being_closed_holds_up_no_other(context: Flask, acme: UUID, globex: UUID) -> None:
    with tenancy.system_session("billing.close") as closing:
        periods.lock_periods(closing, acme)
        waiting = threading.Thread(target=_write_in_context, args=(context, acme, periods.shared_lock_statement(acme)))
        waiting.start()
        database_pool.wait_until(lambda: _is_waiting_for_lock(closing))
        insert(globex)()
        assert (bodies(acme), len(bodies(globex)), waiting.is_alive()) == ([], 1, True)
    waiting.join()
    assert len(bodies(acme)) == 1


def test_full_pool_is_waited_for_once_and_fails_every_batch(
    context: Flask, monkeypatch: pytest.MonkeyPatch, acme: UUID
) -> None:
    raised: list[str] = []

    def call() -> None:
        with context.app_context(), pytest.raises(sa.exc.TimeoutError) as caught:
            insert(acme)()
        raised.append(str(caught.value))

    threads = [threading.Thread(target=call) for _ in range(2 * group_commit.MAX_TRANSACTIONS)]
    with database_pool.single_connection(context, monkeypatch, wait_seconds=0.2):
        with database_pool.held_connection():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        insert(acme)()
    assert raised == ["the pool is full"] * len(threads)  # by the first wait for it; nobody waits a second time
    assert len(bodies(acme)) == 1


def test_forked_process_does_not_wait_for_a_thread_of_its_parent(
    context: Flask, one_connection: None, acme: UUID
) -> None:
    writer = group_commit.writer_of(db.engine)
    with database_pool.held_connection():
        thread = threading.Thread(target=_write_in_context, args=(context, acme))
        thread.start()
        database_pool.wait_until(lambda: writer.writing == 1)
        child = os.fork()
        if child == 0:
            _exit_after_writing(acme)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    assert len(bodies(acme)) == 2


def _write_in_context(app: Flask, organization_id: UUID, *statements: Statement) -> None:
    with app.app_context():
        insert(organization_id, None, *statements)()


def _is_waiting_for_lock(session: tenancy.SystemSession) -> bool:
    return bool(session.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))


def _exit_after_writing(organization_id: UUID) -> None:
    try:
        engine.dispose_connections(close=False)
        insert(organization_id)()
        os._exit(0)
    finally:
        os._exit(1)
