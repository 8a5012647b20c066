"""Messages of past months: moved to partitions, read like new ones, archived and put back."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import ProgrammingError

from saas_api.core import clock, faults
from saas_api.core.access import Principal
from saas_api.core.db.pagination import PageRequest
from saas_api.core.jobs.outbox import RowResult
from saas_api.messages import dispatch, past_messages
from saas_api.messages import messages as all_messages
from saas_api.messages.messages import MessageFilter, MessageNotFound
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.large_tables import insert_rows
from tests.support.statements import count_statements

NOW = day(20, month=6)
_MESSAGES = """
INSERT INTO messages (organization_id, id, mode, channel, recipient, body, segments, status, next_at, accepted_at,
  finished_at, cost, currency)
SELECT %s, gen_random_uuid(), 'live', 'sms', '+2348012345678', 'Grüße, "x"', 2, %s,
  CASE %s WHEN 'queued' THEN at END, at, CASE %s WHEN 'queued' THEN NULL ELSE at END, 0.08, 'EUR'
FROM unnest(%s::timestamptz[]) at"""
_IDS = "SELECT id FROM {} ORDER BY accepted_at DESC, id DESC"
EVERYTHING = "SELECT * FROM all_messages ORDER BY accepted_at DESC, id DESC"


@pytest.fixture
def acme(context: Flask, superuser: Any) -> Iterator[BillingOrganization]:
    """An organization on 20 June; April and May have partitions for past messages."""
    organization = create_organization()
    clock.freeze_time(NOW)
    with superuser, superuser.cursor() as cursor:
        for month in ("2026-04-01", "2026-05-01"):
            cursor.execute("SELECT create_partition('past_messages', %s)", (month,))
    yield organization
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS past_messages_y2026m04, past_messages_y2026m05")


def insert(superuser: Any, organization: BillingOrganization, *times: datetime, status: str = "delivered") -> None:
    """Insert a message that was accepted at each of some instants."""
    insert_rows(superuser, "messages", _MESSAGES, str(organization.id), *[status] * 3, list(times))


def ids_in(organization: BillingOrganization, table: str) -> list[UUID]:
    return [row.id for row in organization.rows(_IDS.format(table))]


def listed(organization: BillingOrganization, limit: int, **filters: Any) -> list[UUID]:
    """IDs of all pages of a list."""
    found, cursor = [], None
    while True:
        with organization.transaction() as session:
            request = PageRequest(limit, cursor)
            page = all_messages.list_messages(session, organization.id, MessageFilter(**filters), request)
        found += [message.id for message in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_finished_messages_of_more_than_a_month_ago_move_and_nothing_of_them_changes(
    acme: BillingOrganization, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_messages, "BATCH_SIZE", 2)
    limit = NOW - past_messages.MOVED_AFTER
    times = [day(n, month=4) for n in range(1, 6)]
    insert(superuser, acme, *times, limit - timedelta(seconds=1), limit)
    insert(superuser, acme, day(2), status="queued")
    before = acme.rows(EVERYTHING)
    assert past_messages.move_finished(60) == 6
    assert past_messages.move_finished(60) == 0
    assert acme.rows(EVERYTHING) == before
    assert {row.accepted_at for row in acme.rows("SELECT accepted_at FROM messages")} == {limit, day(2)}
    by_partition = "SELECT tableoid::regclass::text, count(*) FROM past_messages GROUP BY 1 ORDER BY 1"
    assert acme.rows(by_partition) == [("past_messages_y2026m04", 5), ("past_messages_y2026m05", 1)]
    # A late one of an old month is delivered like any other, and follows then.
    clock.freeze_time(None)
    claim = dispatch.claim_batch(acme.id)
    assert len(claim.rows) == 1
    dispatch.record_results(acme.id, claim, [RowResult(claim.rows[0].id, "failed", "expired")])
    assert past_messages.move_finished(60) == 2
    assert ids_in(acme, "past_messages") == [row.id for row in before]


def test_move_does_not_wait_for_a_message_that_is_locked(acme: BillingOrganization, superuser: Any) -> None:
    insert(superuser, acme, *[day(n) for n in range(1, 6)])
    [oldest, *_] = reversed(ids_in(acme, "messages"))
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT FROM messages WHERE id = %s FOR UPDATE", (str(oldest),))
        assert past_messages.move_finished(60) == 4
    assert ids_in(acme, "messages") == [oldest]
    assert past_messages.move_finished(60) == 1


def test_move_ends_when_its_time_is_up(acme: BillingOrganization, superuser: Any) -> None:
    insert(superuser, acme, day(1))
    assert past_messages.move_finished(0) == 0


def test_interrupted_move_leaves_each_message_in_one_table(
    acme: BillingOrganization, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_messages, "BATCH_SIZE", 2)
    insert(superuser, acme, *[day(n, month=4) for n in range(1, 6)])
    before = ids_in(acme, "messages")
    monkeypatch.setattr(faults, "active_fault", ["messages.before_move_commit:raise:2"])
    monkeypatch.setattr(faults, "_hits", {})
    with pytest.raises(RuntimeError):
        past_messages.move_finished(60)
    assert (ids_in(acme, "messages"), ids_in(acme, "past_messages")) == (before[:3], before[3:])
    assert past_messages.move_finished(60) == 3
    assert ids_in(acme, "past_messages") == before


def test_lists_go_on_from_new_messages_to_those_of_past_months(acme: BillingOrganization, superuser: Any) -> None:
    insert(superuser, acme, *[day(n, month=month) for month in (4, 5, 6) for n in range(1, 6)])
    insert(superuser, acme, day(3, 1), day(9, month=6), status="failed")
    insert(superuser, acme, day(2), day(4, month=5), status="queued")  # late ones, between those that move
    everything = ids_in(acme, "messages")
    filters: list[dict[str, Any]] = [{}, {"status": "failed"}, {"status": "queued"}, {"mode": "test"}]
    filters += [{"since": day(3)}, {"until": day(3, month=5)}, {"since": day(2, month=5), "until": day(2, month=6)}]
    before = [listed(acme, 100, **chosen) for chosen in filters]
    assert before[0] == everything
    assert len(before[1]) == 2
    with acme.transaction() as session:
        by_status = all_messages.count_by_status(session, acme.id, MessageFilter())
    assert past_messages.move_finished(60) == 11
    with acme.transaction() as session:
        assert all_messages.count_by_status(session, acme.id, MessageFilter()) == by_status
    for chosen, expected in zip(filters, before, strict=True):
        for limit in (1, 3, 100):
            assert listed(acme, limit, **chosen) == expected
        with acme.transaction() as session:
            selected = MessageFilter(**chosen)
            assert all_messages.count_messages(session, acme.id, selected) == len(expected)
            rows = all_messages.list_export_rows(session, acme.id, selected, 4)
            assert [row.id for row in rows] == expected[:4]
            newer = [row for row in rows if row.accepted_at > day(3, month=6)]
            assert all_messages.count_newer(session, acme.id, selected, day(3, month=6)) == len(newer)


def test_what_new_messages_answer_reads_no_partition(app: Flask, acme: BillingOrganization, superuser: Any) -> None:
    insert(superuser, acme, day(1), *[day(n, month=6) for n in range(1, 6)])
    past_messages.move_finished(60)
    newest = ids_in(acme, "messages")[0]
    with count_statements(app) as statements, acme.transaction() as session:
        all_messages.list_messages(session, acme.id, MessageFilter(), PageRequest(4))
        all_messages.list_messages(session, acme.id, MessageFilter(since=day(1, month=6)), PageRequest(100))
        all_messages.count_newer(session, acme.id, MessageFilter(), day(1, month=6))
        all_messages.get_message(session, Principal("key", newest, acme.id, mode="live"), newest)
        assert "past_messages" not in " ".join(statements)
        assert "all_messages" not in " ".join(statements)


def test_message_of_a_past_month_is_found_by_its_organization_and_mode_alone(
    acme: BillingOrganization, superuser: Any
) -> None:
    insert(superuser, acme, day(1))
    past_messages.move_finished(60)
    [past] = ids_in(acme, "past_messages")
    other = create_organization("Other")
    with acme.transaction() as session:
        found = all_messages.get_message(session, Principal("key", past, acme.id, mode="live"), past)
        assert (found.id, found.body, found.delivered_at) == (past, 'Grüße, "x"', day(1))
        assert all_messages.has_messages(session, acme.id)
        with pytest.raises(MessageNotFound):
            all_messages.get_message(session, Principal("key", past, acme.id, mode="test"), past)
    with other.transaction() as session:
        assert not all_messages.has_messages(session, acme.id)
        with pytest.raises(MessageNotFound):
            all_messages.get_message(session, Principal("key", past, acme.id, mode="live"), past)
        with pytest.raises(ProgrammingError, match="permission denied"):
            session.execute(sa.text("DELETE FROM past_messages"))


def test_month_is_archived_when_its_messages_have_moved_and_comes_back_whole(
    app: Flask, acme: BillingOrganization, superuser: Any, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        result = app.test_cli_runner().invoke(args=["partitions", *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    archive = ("archive", "--before", "2026-06", "--to", str(tmp_path), "--table", "past_messages")
    insert(superuser, acme, day(1), day(30), day(25, month=5))
    before = acme.rows(EVERYTHING)
    assert "1 organizations have messages of it in messages" in run(*archive)
    past_messages.move_finished(60)
    said = run(*archive)
    assert "past_messages_y2026m04 is archived, 2 rows" in said
    assert "past_messages_y2026m05 is kept" in said
    assert acme.rows(EVERYTHING) == before[:1]
    assert listed(acme, 1) == [before[0].id]
    run("restore", str(tmp_path / "past_messages-2026-04.parquet"))
    assert acme.rows(EVERYTHING) == before
