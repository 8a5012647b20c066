"""Claims and results on an outbox table of its own, with the races that leases and tokens decide."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import counters, outbox
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult

TABLE = """
CREATE TABLE outbox_rows (
  id uuid PRIMARY KEY, account_id uuid, part_id int NOT NULL DEFAULT 1, status text NOT NULL DEFAULT 'queued',
  attempts smallint NOT NULL DEFAULT 0, interruptions smallint NOT NULL DEFAULT 0, next_at timestamptz,
  lease_token uuid, error_code text, finished_at timestamptz, content text, reference text,
  CHECK ((status IN ('queued', 'sending')) = (next_at IS NOT NULL)),
  CHECK ((status IN ('queued', 'sending')) = (finished_at IS NULL)),
  CHECK ((status = 'sending') = (lease_token IS NOT NULL)));
CREATE INDEX ON outbox_rows (account_id, part_id, next_at) WHERE status IN ('queued', 'sending');
GRANT ALL ON outbox_rows TO saas_system"""
ROWS = Claimable(
    name="rows",
    table="outbox_rows",
    owner=("account_id",),
    claimed="r.content",
    recorded="r.id, r.status, r.attempts",
    result_columns={"reference": "text"},
    assignments={
        "reference": "v.reference",
        "content": "CASE WHEN v.status IN ('queued', 'failed') THEN r.content END",
    },
    max_interruptions=10,
)
PARTS = Claimable(
    name="parts", table="outbox_rows", owner=("account_id", "part_id"), claimed="r.part_id", is_counted_at_claim=True
)
ACME, CAROL = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def table(superuser: Any, clear_tables: Any) -> Iterator[None]:
    """The table of these tests; the clearing of tables, which is prepared before, leaves it alone."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(TABLE)
    yield
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DROP TABLE outbox_rows")


@pytest.fixture(autouse=True)
def outbox_app(context: Flask, table: None) -> Iterator[Flask]:
    """The application with an empty outbox table."""
    yield context
    execute("TRUNCATE outbox_rows")
    counters._pending_counts.clear()


def transaction() -> Any:
    return tenancy.system_session("demo.seed")


def execute(sql: str, **values: Any) -> list[Any]:
    with transaction() as session:
        result = session.execute(sa.text(sql), values)
        return list(result) if result.returns_rows else []


def queue_row(owner: UUID | None = ACME, *, due_in_seconds: float = -1, **columns: Any) -> UUID:
    """Insert a queued row, due a second ago unless said otherwise."""
    row_id = ids.new_id()
    columns = {"id": row_id, "account_id": owner, "content": "text", **columns}
    names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    insert = f"INSERT INTO outbox_rows ({names}, next_at) VALUES ({values}, now() + make_interval(secs => :due))"
    execute(insert, **columns, due=due_in_seconds)
    return row_id


def claim_rows(owner: Any = ACME, *, limit: int = 10, claimable: Claimable = ROWS) -> Claim:
    with transaction() as session:
        return outbox.claim(session, claimable, owner, limit=limit)


def record(claim: Claim, *results: RowResult) -> list[Any]:
    with transaction() as session:
        return list(outbox.record(session, claim, results))


def give_back(claim: Claim, *row_ids: UUID) -> list[Any]:
    with transaction() as session:
        return list(outbox.give_back(session, claim, row_ids))


def claimed_ids(claim: Claim) -> list[UUID]:
    return [row.id for row in claim.rows]


def read(row_id: UUID) -> Any:
    columns = "*, extract(epoch FROM next_at - now())::float8 AS seconds"
    return execute(f"SELECT {columns} FROM outbox_rows WHERE id = :id", id=row_id)[0]


def expire_leases() -> None:
    execute("UPDATE outbox_rows SET next_at = now() - interval '1 second' WHERE status = 'sending'")


def test_claim_takes_due_rows_of_one_owner_oldest_first(outbox_app: Flask) -> None:
    later, first, second = queue_row(due_in_seconds=60), queue_row(due_in_seconds=-9), queue_row(due_in_seconds=-8)
    queue_row(CAROL)
    queue_row(None)
    third = queue_row(due_in_seconds=-7)
    claim = claim_rows(limit=2)
    assert set(claimed_ids(claim)) == {first, second}
    assert claimed_ids(claim_rows(limit=5)) == [third]
    assert read(later).status == "queued"
    row = read(first)
    assert (row.status, row.lease_token, row.attempts, row.interruptions) == ("sending", claim.token, 0, 0)
    assert 0 < row.seconds <= 30
    assert claim.rows[0].content == "text"


def test_rows_without_an_owner_have_claims_of_their_own(outbox_app: Flask) -> None:
    mine, unowned = queue_row(ACME), queue_row(None)
    assert claimed_ids(claim_rows(None)) == [unowned]
    assert claimed_ids(claim_rows(ACME)) == [mine]


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_two_claimers_never_hold_one_row(outbox_app: Flask, limit: int) -> None:
    expected = {queue_row() for _ in range(30)}
    barrier = threading.Barrier(4)

    def claim_until_empty() -> list[UUID]:
        with outbox_app.app_context():
            barrier.wait()
            claimed: list[UUID] = []
            while batch := claimed_ids(claim_rows(limit=limit)):
                claimed += batch
            return claimed

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(claim_until_empty) for _ in range(4)]
        claimed = [row_id for run in runs for row_id in run.result()]
    assert len(claimed) == len(expected)
    assert set(claimed) == expected


def test_uncommitted_claim_is_skipped_and_its_rollback_frees_the_row(outbox_app: Flask) -> None:
    first, second = queue_row(due_in_seconds=-9), queue_row(due_in_seconds=-8)

    def claim_and_fail() -> None:
        with transaction() as session:
            assert claimed_ids(outbox.claim(session, ROWS, ACME, limit=1)) == [first]
            assert claimed_ids(claim_rows()) == [second]
            raise KeyError

    with pytest.raises(KeyError):
        claim_and_fail()
    assert claimed_ids(claim_rows()) == [first]


def test_row_is_due_again_when_its_lease_has_ended_and_not_before(outbox_app: Flask) -> None:
    row_id = queue_row()
    first = claim_rows()
    assert claimed_ids(claim_rows()) == []
    assert [row.was_interrupted for row in first.rows] == [False]
    expire_leases()
    second = claim_rows()
    assert [(row.id, row.was_interrupted, row.interruptions) for row in second.rows] == [(row_id, True, 1)]
    assert second.token != first.token
    assert counters._pending_counts["interruptions_total", "rows"] == 1


def test_old_token_records_nothing_after_another_claim(outbox_app: Flask) -> None:
    row_id = queue_row()
    old = claim_rows()
    expire_leases()
    new = claim_rows()
    assert record(old, RowResult(row_id, "sent")) == []
    assert record(old, RowResult.retry(row_id, timedelta(0), "late")) == []
    assert give_back(old, row_id) == []
    assert read(row_id).lease_token == new.token
    assert counters._pending_counts["lease_lost_total", "rows"] == 3
    assert [tuple(row) for row in record(new, RowResult(row_id, "sent"))] == [(row_id, "sent", 1)]
    assert record(new, RowResult(row_id, "failed")) == []
    assert read(row_id).status == "sent"


def test_ended_lease_that_no_other_claim_took_still_records(outbox_app: Flask) -> None:
    row_id = queue_row()
    claim = claim_rows()
    expire_leases()
    assert len(record(claim, RowResult(row_id, "sent"))) == 1
    assert claimed_ids(claim_rows()) == []


def test_two_results_under_one_token_are_recorded_once(outbox_app: Flask) -> None:
    row_id = queue_row()
    claim = claim_rows()
    barrier = threading.Barrier(2)

    def finish() -> int:
        with outbox_app.app_context():
            barrier.wait()
            return len(record(claim, RowResult(row_id, "sent")))

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(finish) for _ in range(2)]
        assert sum(run.result() for run in runs) == 1
    assert read(row_id).attempts == 1


def test_final_result_ends_the_row_and_sets_the_columns_of_its_table(outbox_app: Flask) -> None:
    sent, failed = queue_row(), queue_row()
    results = RowResult(sent, "sent", values={"reference": "r-1"}), RowResult(failed, "failed", "refused")
    assert {tuple(row) for row in record(claim_rows(), *results)} == {(sent, "sent", 1), (failed, "failed", 1)}
    row = read(sent)
    assert (row.reference, row.content, row.error_code, row.next_at, row.lease_token) == ("r-1", None, None, None, None)
    assert row.finished_at is not None
    row = read(failed)
    assert (row.reference, row.content, row.error_code) == (None, "text", "refused")


def test_retry_counts_an_attempt_and_waits(outbox_app: Flask) -> None:
    row_id = queue_row()
    record(claim_rows(), RowResult.retry(row_id, timedelta(minutes=2), "busy"))
    row = read(row_id)
    assert (row.status, row.attempts, row.error_code, row.content) == ("queued", 1, "busy", "text")
    assert 60 < row.seconds <= 120
    assert claimed_ids(claim_rows()) == []


def test_row_given_back_is_due_at_once_and_counts_no_attempt(outbox_app: Flask) -> None:
    row_id = queue_row(error_code="busy")
    give_back(claim_rows(), row_id)
    row = read(row_id)
    assert (row.status, row.attempts, row.interruptions, row.error_code) == ("queued", 0, 0, "busy")
    assert claimed_ids(claim_rows()) == [row_id]


def test_row_interrupted_three_times_is_claimed_first_and_alone(outbox_app: Flask) -> None:
    others = {queue_row(due_in_seconds=-60) for _ in range(3)}
    interrupted = queue_row(due_in_seconds=-1, interruptions=3)
    again = queue_row(due_in_seconds=-1, interruptions=4)
    barely = queue_row(due_in_seconds=-90, interruptions=2)
    assert {*claimed_ids(claim_rows()), *claimed_ids(claim_rows())} == {interrupted, again}
    assert set(claimed_ids(claim_rows())) == {*others, barely}


def test_claimers_take_two_interrupted_rows_apart(outbox_app: Flask) -> None:
    interrupted = {queue_row(interruptions=5) for _ in range(2)}
    other = queue_row()
    with transaction() as session:
        first = claimed_ids(outbox.claim(session, ROWS, ACME, limit=10))
        second = claimed_ids(claim_rows())
        third = claimed_ids(claim_rows())
    assert {*first, *second} == interrupted
    assert (len(first), len(second), third) == (1, 1, [other])


def test_row_interrupted_ten_times_is_poisoned(outbox_app: Flask) -> None:
    row_id = queue_row(interruptions=9)
    claim_rows()
    expire_leases()
    claim = claim_rows()
    assert claim.interrupted_too_often == [RowResult(row_id, "failed", "poisoned")]
    record(claim, *claim.interrupted_too_often)
    row = read(row_id)
    assert (row.status, row.error_code) == ("failed", "poisoned")
    queue_row(interruptions=9)
    assert claim_rows().interrupted_too_often == []


def test_claim_of_no_rows_takes_none(outbox_app: Flask) -> None:
    queue_row(interruptions=7)
    queue_row()
    assert claimed_ids(claim_rows(limit=0)) == []


def test_attempts_can_be_counted_at_the_claim(outbox_app: Flask) -> None:
    row_id = queue_row(part_id=1)
    queue_row(part_id=2)
    claim = claim_rows((ACME, 1), claimable=PARTS)
    assert [(row.id, row.attempts, row.part_id) for row in claim.rows] == [(row_id, 1, 1)]
    record(claim, RowResult.retry(row_id, timedelta(0), "busy"))
    assert read(row_id).attempts == 1


def list_due(claimable: Claimable) -> DueOwners[Any]:
    with transaction() as session:
        return outbox.list_due(session, claimable)


def test_due_owners_are_listed_once_with_the_time_until_the_next(outbox_app: Flask) -> None:
    for owner, seconds in ((ACME, -5), (ACME, -1), (None, 0), (CAROL, 10), (UUID(int=3), 15), (UUID(int=4), 3600)):
        queue_row(owner, due_in_seconds=seconds)
    due = list_due(ROWS)
    assert set(due.owners) == {ACME, None}
    assert len(due.owners) == 2
    assert due.next_seconds is not None
    assert 0 < due.next_seconds <= 10


def test_due_owners_of_several_columns_are_tuples(outbox_app: Flask) -> None:
    for owner, part, seconds in ((ACME, 1, 9), (ACME, 1, -1), (ACME, 2, -1), (CAROL, 1, 60), (CAROL, 7, -60)):
        queue_row(owner, part_id=part, due_in_seconds=seconds)
    due = list_due(PARTS)
    assert sorted(due.owners) == [(ACME, 1), (ACME, 2), (CAROL, 7)]
    assert due.next_seconds is None


def test_finished_rows_and_running_leases_are_not_due(outbox_app: Flask) -> None:
    row_id = queue_row()
    queue_row(CAROL)
    record(claim_rows(), RowResult(row_id, "sent"))
    claim_rows(CAROL)
    assert list_due(ROWS) == list_due(PARTS) == DueOwners([], None)


def test_scan_is_bounded_and_drawn_by_lot(outbox_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_OWNERS_PER_SCAN", 3)
    for number in range(20):
        queue_row(UUID(int=number), due_in_seconds=-number - 1)
    scans = [tuple(list_due(ROWS).owners) for _ in range(20)]
    assert {len(scan) for scan in scans} == {3}
    assert len(set(scans)) > 1


def test_results_are_recorded_in_the_transaction_of_the_caller(outbox_app: Flask) -> None:
    row_id = queue_row()
    claim = claim_rows()

    def record_and_fail(session: Session) -> None:
        outbox.record(session, claim, [RowResult(row_id, "sent")])
        raise KeyError

    with pytest.raises(KeyError), transaction() as session:
        record_and_fail(session)
    assert read(row_id).status == "sending"
    assert record(claim) == []
