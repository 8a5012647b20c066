"""`flask cells move`: nothing of an organization is lost, doubled or seen twice, whatever fails or runs meanwhile."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.exc import ProgrammingError

from saas_api.billing import period_close
from saas_api.core import clock
from saas_api.core.db import cells, engine, presence, tenancy
from saas_api.ops import cell_moves
from saas_api.ops.cell_moves import CannotMove, CopyDiffers
from tests.support.accounts import User, create_key, make_key
from tests.support.billing import day
from tests.support.cells import Spread, call, execute_as_superuser, organization_id, query
from tests.support.http_receiver import run_receiver, wait_until
from tests.support.messages import provider_calls, send_message
from tests.support.payments import PayingOrganization
from tests.support.team import audit_events
from tests.support.webhooks import WebhookOrganization

STAYS = {"audit_events", "memberships", "organizations"}
"""Tables of which home keeps rows of an organization that has left."""


def _work_with_right_books(spread: Spread) -> None:
    """Run the jobs; before and after the rollups go on, each event is in them or above their watermark."""
    for _ in range(2):
        assert spread.find_violations() == []
        spread.roll_up()
    spread.work()


def test_every_table_with_rows_of_organizations_is_moved(spread: Spread) -> None:
    """A new table is found by its column; only those whose rows are rebuilt or stay are treated otherwise."""
    columns = query(
        spread,
        None,
        """SELECT c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND NOT c.relispartition
        WHERE a.attname = 'organization_id' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace""",
    )
    with spread.app.app_context(), cell_moves._connect("home") as connection:
        moved = {table.name for table in cell_moves._list_tables(connection)}
    assert {name for (name,) in columns} - {"tenancy_canary"} == moved - {"organizations"}
    policies = query(spread, "eu", "SELECT tablename FROM pg_policies WHERE policyname = 'present'")
    assert {name for (name,) in policies} == moved - {"audit_events"}


def test_the_number_of_organizations_that_left_costs_a_statement_nothing(spread: Spread, alice: User) -> None:
    """Hidden rows are looked up in an index, by a tenant among at most one row, and nothing collects all of them."""
    left = "INSERT INTO absent_organizations SELECT gen_random_uuid(), true FROM generate_series(1, 2000)"
    execute_as_superuser(spread.home, left, "ANALYZE absent_organizations")
    with spread.app.app_context():
        with tenancy.tenant_session(organization_id(alice)) as session:
            assert session.scalar(sa.text("SELECT count(*) FROM absent_organizations")) == 0
        with tenancy.system_session("demo.seed") as session:
            one = {"id": organization_id(alice)}
            plan = session.scalars(sa.text("EXPLAIN SELECT FROM organizations WHERE id = :id"), one).all()
    assert any("Index Only Scan using absent_organizations_pkey" in line for line in plan), plan


def test_upgrade_protects_a_table_whose_policy_is_missing_or_of_another_release(spread: Spread, alice: User) -> None:
    before = """CREATE FUNCTION hidden_organizations() RETURNS uuid[] LANGUAGE sql AS $$ SELECT '{}'::uuid[] $$;
      DROP POLICY present ON messages; DROP POLICY present ON invoices;
      CREATE POLICY present ON invoices AS RESTRICTIVE USING (organization_id <> ALL (hidden_organizations()))"""
    owner = sa.create_engine(spread.eu.owner_url, poolclass=sa.pool.NullPool)
    with owner.connect() as connection:
        connection.exec_driver_sql(before)
        connection.commit()
        assert {table.name for table in presence.find_unprotected(connection)} == {"invoices", "messages"}
        problem = "visible are rows that are left of other organizations in invoices, messages"
        assert f"fail  presence of cell eu: {problem}" in spread.app.test_cli_runner().invoke(args=["doctor"]).output
        with pytest.raises(CannotMove, match="eu does not hide it in invoices, messages"):
            spread.move(alice, "eu")
        presence.protect_tables(connection)
        assert not presence.find_unprotected(connection)
        assert "ok    presence of cell eu" in spread.app.test_cli_runner().invoke(args=["doctor"]).output
        assert connection.scalar(sa.text("SELECT to_regprocedure('hidden_organizations()')")) is None


def test_money_usage_and_history_move_and_go_on(spread: Spread, acme: PayingOrganization) -> None:
    client, owner = acme.client, acme.owner
    key = make_key(client, owner)
    send_message(client, key)
    paths = ("/billing/history", "/billing/wallet", "/usage", "/billing/subscription", "/messages", "/keys")
    before = [owner.call("GET", path) for path in paths]
    entries = [entry["action"] for entry in audit_events(owner)]
    assert {status for status, _ in before} == {200}
    reference = acme.begin()
    assert spread.find_violations() == []

    spread.move(owner, "eu")
    assert [owner.call("GET", path) for path in paths[:-2]] == before[:-2]
    assert [entry["action"] for entry in audit_events(owner)] == ["payment.initiated", *entries][-len(entries) - 1 :]
    acme.choose(reference, "pay")
    acme.send_event(reference)
    assert (acme.invoice().state, acme.invoice().number) == ("paid", "INV-000001")
    with cells.use("eu"):
        clock.freeze_time(day(1, 2, month=6))
        period_close.close_due(clock.now(), acme.id)
        clock.freeze_time(None)
    assert {invoice.number for invoice in acme.invoices()} == {"INV-000001", "INV-EU-000001"}
    assert spread.find_violations() == []

    spread.move(owner, "home")
    states = {invoice.number: invoice.state for invoice in acme.invoices()}
    assert states == {"INV-000001": "paid", "INV-EU-000001": "open"}
    assert spread.find_violations() == []
    for cell in ("home", "eu"):
        chain = spread.app.test_cli_runner().invoke(args=["cells", "run", cell, "audit", "verify"])
        assert chain.exit_code == 0, chain.output


KILLS = {
    "cells.after_mark": "home",
    "cells.after_hide": "home",
    "cells.before_target_commit": "home",
    "cells.after_target_commit": "home",
    "cells.after_source_commit": "home",
    "cells.after_flip": "eu",
    "cells.after_show": "eu",
}
"""Fault points, and the cell that the directory names after a kill there."""


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_move_goes_on_and_nothing_is_lost_or_doubled(
    point: str, spread: Spread, client: FlaskClient, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spread.app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    key, other = make_key(client, alice), make_key(client, carol)
    spread.roll_up()
    with run_receiver() as receiver:
        acme = WebhookOrganization(client, alice)
        acme.create_endpoint(receiver.url, event_types=["invoice.paid"])
        acme.publish_event()
        sent = send_message(client, key)
        spread.roll_up()
        before = spread.count_rows("home", alice)

        assert spread.move_until(point, alice, "eu") == -9
        assert spread.cell_of(alice) == KILLS[point]
        response = client.get("/api/v1/messages", headers=key)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert call(client, key)[1] == alice.call("GET", "/keys")[1] == "ORGANIZATION_MOVING"
        send_message(client, other)  # others are served
        is_shown = point == "cells.after_show"
        moved = spread.count_rows("eu", alice) if is_shown else {}
        if point != "cells.after_mark":  # jobs go on as before, or already there
            _work_with_right_books(spread)
            assert len(receiver.ids) == is_shown
            assert len(provider_calls(spread.app)) == 1 + is_shown, "of carol, and of alice where her rows are shown"

        spread.move(alice, "eu")
        moved = moved or spread.count_rows("eu", alice)
        rebuilt = {"audit_events", "usage_rollups"}
        assert {name: count for name, count in moved.items() if name not in rebuilt} == {
            name: count for name, count in before.items() if name not in rebuilt
        }
        assert spread.count_rows("home", alice).keys() <= STAYS
        _work_with_right_books(spread)
        assert len(receiver.ids) == 1
        assert client.get(f"/api/v1/messages/{sent}", headers=key).json["data"]["status"] == "delivered"
        assert [calls for _, _, calls in provider_calls(spread.app)] == [1, 1]
        again = spread.move(alice, "eu")
        assert again == {}


@pytest.mark.parametrize("point", ["cells.after_hide", "cells.after_source_commit"])
def test_only_keys_of_an_organization_that_is_being_moved_wait_for_it(
    point: str, spread: Spread, client: FlaskClient, alice: User, carol: User
) -> None:
    key_id, unknown = create_key(client, carol)
    assert carol.call("DELETE", f"/keys/{key_id}")[0] == 200
    key, other = make_key(client, alice), make_key(client, carol)
    assert spread.move_until(point, alice, "eu") == -9
    assert call(client, unknown) == (401, "INVALID_API_KEY")
    assert call(client, key) == (503, "ORGANIZATION_MOVING")
    assert call(client, other) == (200, None)
    spread.move(alice, "eu")
    assert call(client, key) == (200, None)


def test_what_moves_while_it_is_searched_is_found(spread: Spread, alice: User) -> None:
    spread.move(alice, "eu")
    places: list[str] = []

    def find() -> str | None:
        if cells.current() == "eu" and not places:
            spread.move(alice, "home")  # which was searched already
        places.append(spread.cell_of(alice))
        return "found" if places[-1] == cells.display_name(cells.current()) else None

    with spread.app.app_context():
        assert cells.search(find) == "found"


def test_a_move_waits_for_jobs_and_gives_up_where_they_do_not_end(
    spread: Spread, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(client, alice)
    monkeypatch.setattr(cell_moves, "MAX_WAIT_SECONDS", 1)
    with spread.app.app_context(), cells.hold_moves(), pytest.raises(CannotMove, match="jobs have not ended"):
        spread.move(alice, "eu")
    assert (spread.cell_of(alice), call(client, key)) == ("home", (200, None))

    with contextlib.closing(spread.home.postgres.superuser("saas")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        with pytest.raises(CannotMove, match="transactions have not ended"):
            spread.move(alice, "eu")
    assert (spread.cell_of(alice), call(client, key)) == ("home", (200, None))
    spread.move(alice, "eu")
    assert call(client, key) == (200, None)


def test_jobs_do_not_wait_for_a_move_that_waits_for_another_job(
    spread: Spread, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_moves, "_LOCK_SECONDS", 0.05)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %(key)s"

    def is_waiting() -> bool:
        with engine.current_engine().connect() as connection:
            return connection.exec_driver_sql(waiting, {"key": cells.JOBS_LOCK_KEY}).scalar() == 1

    with spread.app.app_context(), ThreadPoolExecutor(1) as pool:
        with cells.hold_moves():
            move = pool.submit(spread.move, alice, "eu")
            wait_until(is_waiting)
            with cells.hold_moves():
                assert not move.done()
        assert move.result()


def test_a_move_raises_identities_without_passing_a_writer(
    spread: Spread, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of the new cell that has just drawn an identity is waited for; it could be one that arrives."""
    monkeypatch.setattr(cell_moves, "MAX_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(cell_moves, "_LOCK_SECONDS", 0.05)
    [(last,)] = query(spread, "eu", "SELECT last_value FROM events_sequence_seq")
    execute_as_superuser(
        spread.home, f"SELECT setval('events_sequence_seq', last_value + {last}) FROM events_sequence_seq"
    )
    acme = WebhookOrganization(client, alice)
    acme.create_endpoint("https://hooks.example/", event_types=["invoice.paid"])
    acme.publish_event()
    with contextlib.closing(spread.eu.postgres.superuser("saas")) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        with pytest.raises(CannotMove, match="writers of events have not ended"):
            spread.move(alice, "eu")
        connection.rollback()
        spread.move(alice, "eu")
        cursor.execute("SELECT nextval('events_sequence_seq') > (SELECT max(sequence) FROM events)")
        assert cursor.fetchone() == (True,)


def test_two_commands_do_not_move_one_organization_at_once(
    spread: Spread, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(client, alice)
    with ThreadPoolExecutor(1) as pool:
        with spread.app.app_context(), cells.hold_moves():
            first = pool.submit(spread.move, alice, "eu")
            wait_until(lambda: call(client, key)[0] == 503)
            with pytest.raises(CannotMove, match="another process is moving it"):
                spread.move(alice, "eu")
        assert first.result()
    assert (spread.cell_of(alice), call(client, key)) == ("eu", (200, None))


def test_a_copy_that_differs_changes_nothing(spread: Spread, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    send_message(client, key)
    broken = """CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN NEW.attempts := 3; RETURN NEW; END $$;
      CREATE TRIGGER change BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION change();
      ALTER TABLE messages ENABLE ALWAYS TRIGGER change"""
    execute_as_superuser(spread.eu, broken)
    try:
        with pytest.raises(CopyDiffers, match="messages"):
            spread.move(alice, "eu")
    finally:
        execute_as_superuser(spread.eu, "DROP FUNCTION change() CASCADE")
    assert (spread.cell_of(alice), call(client, key)) == ("home", (200, None))
    assert spread.count_rows("eu", alice) == {}


def test_a_move_that_fails_in_the_new_cell_says_to_run_it_again(
    spread: Spread, client: FlaskClient, alice: User
) -> None:
    key, move = make_key(client, alice), ["cells", "move", alice.organization_id, "eu"]
    broken = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room'; END $$;
      CREATE TRIGGER refuse BEFORE DELETE ON absent_organizations FOR EACH ROW EXECUTE FUNCTION refuse()"""
    execute_as_superuser(spread.eu, broken)
    try:
        failed = spread.app.test_cli_runner().invoke(args=move)
    finally:
        execute_as_superuser(spread.eu, "DROP FUNCTION refuse() CASCADE")
    assert failed.exit_code == 1, failed.output
    assert "no room" in failed.output
    assert "run the same command again" in failed.output
    assert (spread.cell_of(alice), call(client, key)) == ("eu", (503, "ORGANIZATION_MOVING"))
    assert spread.app.test_cli_runner().invoke(args=move).exit_code == 0
    assert call(client, key) == (200, None)


def test_an_organization_stays_where_months_are_archived_in_one_cell_only(
    spread: Spread, client: FlaskClient, alice: User
) -> None:
    key = make_key(client, alice)
    archived = "INSERT INTO archived_partitions VALUES ('usage_events', date_trunc('month', now()), 1, 'x')"
    execute_as_superuser(spread.eu, archived)
    with pytest.raises(CannotMove, match="archived in one of the cells only"):
        spread.move(alice, "eu")
    assert (spread.cell_of(alice), call(client, key)) == ("home", (200, None))


def test_a_late_write_where_an_organization_was_is_refused(spread: Spread, alice: User) -> None:
    """A process that was stopped before it wrote, and goes on after the move."""
    spread.move(alice, "eu")
    insert = "INSERT INTO alert_rules (organization_id, threshold) VALUES (:id, 50)"
    with pytest.raises(ProgrammingError, match="row-level security"):
        query(spread, None, f"{insert} RETURNING id", id=organization_id(alice))
