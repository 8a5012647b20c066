"""DATABASE_REPLICA_URL: reads from a real streaming replica that see every commit before them, or from the primary."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from saas_api import cli
from saas_api.app import create_app
from saas_api.billing import invoices
from saas_api.cli.commands import doctor
from saas_api.cli.dev.engines import Engines
from saas_api.core import ids, metrics
from saas_api.core.db import engine, replica, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.replica import Replica
from saas_api.usage.ledger import LineSlice
from tests.architecture.test_routes import access
from tests.support.accounts import User, sign_up
from tests.support.console import open_console
from tests.support.http_receiver import wait_until
from tests.support.pages import Browser
from tests.support.replicas import Standby, running_standby

WHERE = sa.text("SELECT pg_is_in_recovery()")
NAMES = sa.text("SELECT name FROM organizations ORDER BY 1")
PATIENCE = 20.0
READY = {"status": "ready", "postgresql": "ok", "redis": "ok"}


@pytest.fixture(scope="module")
def standby(engines: Engines, app: Flask) -> Iterator[Standby]:
    """A replica of a primary that has synchronous_commit on, as everywhere but in tests."""
    with running_standby(engines) as server, set_synchronous_commit(engines, app, "on"):
        yield server


@contextlib.contextmanager
def set_synchronous_commit(engines: Engines, app: Flask, value: str, after: str = "DEFAULT") -> Iterator[None]:
    """Change it for the product's connections in the block."""
    with contextlib.closing(engines.postgres.superuser("saas")) as superuser, superuser.cursor() as cursor:
        superuser.autocommit = True
        statement = "ALTER ROLE saas_app IN DATABASE saas SET synchronous_commit ="
        cursor.execute(f"{statement} {value}")
        with app.app_context():
            engine.dispose_connections()
        yield
        cursor.execute(f"{statement} {after}")
        with app.app_context():
            engine.dispose_connections()


@pytest.fixture(scope="module")
def replicated(config: dict[str, Any], app: Flask, standby: Standby) -> Iterator[Flask]:
    """The product with a replica."""
    application = create_app({**config, "DATABASE_REPLICA_URL": standby.url})
    cli.init_app(application)
    yield application
    with application.app_context():
        engine.dispose_connections()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, standby: Standby, replicated: Flask) -> Iterator[None]:
    """Wait for the replica as long as a busy machine may take, and try it again at once."""
    monkeypatch.setattr(replica, "WAIT_SECONDS", PATIENCE)
    monkeypatch.setattr(replica, "REST_SECONDS", 0)
    yield
    if standby.pid is None:
        standby.start()
    with replicated.app_context():
        engine.read_from_replica(lambda: engine.session().execute(WHERE))


@pytest.fixture
def known(replicated: Flask) -> Replica:
    """What the process knows of the replica."""
    with replicated.app_context():
        found = engine.find_replica()
    assert found is not None
    return found


@pytest.fixture
def client(replicated: Flask) -> FlaskClient:
    return replicated.test_client()


@pytest.fixture
def context(replicated: Flask) -> Iterator[Flask]:
    with replicated.app_context():
        yield replicated


@pytest.fixture
def alice(client: FlaskClient) -> User:
    """The owner of Acme, who has opened the dashboard: the first page creates an account."""
    return with_account(sign_up(client))


@pytest.fixture
def carol(client: FlaskClient) -> User:
    return with_account(sign_up(client, "carol@carol.example", "Carol & Co"))


def with_account(user: User) -> User:
    assert user.call("GET", "/usage")[0] == 200
    return user


def reads(place: str) -> float:
    return float(metrics.REPLICA_READS.labels(place)._value.get())


@contextlib.contextmanager
def all_from(place: str) -> Iterator[None]:
    """Check that what is read in the block is read at one place only."""
    before = {name: reads(name) for name in ("replica", "primary")}
    yield
    grown = {name for name, count in before.items() if reads(name) > count}
    assert grown == {place}


def read_in(open_session: Callable[[], Any], statement: sa.TextClause = NAMES) -> list[Any]:
    """Read in a session of its own, from the replica where that is possible."""

    def read() -> list[Any]:
        with open_session() as session:
            return list(session.scalars(statement))

    return engine.read_from_replica(read)


def session_of(user: User) -> Any:
    return tenancy.tenant_session(ids.parse_id("org", user.organization_id))


def rename(user: User, name: str) -> str:
    """Rename an organization and return the text of its settings page."""
    status, _ = user.call("PATCH", "/organization", name=name)
    assert status == 200
    page = Browser(user.client.application, user).open("/dashboard/settings")
    assert page.status_code == 200
    return page.text


def test_reader_sees_what_was_committed_before_from_the_replica(alice: User) -> None:
    with all_from("replica"):
        for number in range(3):
            assert f"Acme {number}" in rename(alice, f"Acme {number}")


def test_reader_sees_a_commit_that_is_not_flushed(alice: User, replicated: Flask, engines: Engines) -> None:
    """Without synchronous_commit others see it before."""
    with set_synchronous_commit(engines, replicated, "off", after="on"), all_from("replica"):
        assert "Acme 1" in rename(alice, "Acme 1")


def test_reader_sees_own_write_while_the_replica_is_behind(
    alice: User, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "WAIT_SECONDS", 0)
    with standby.paused(), all_from("primary"), capture_logs() as logs:
        for number in range(3):
            assert f"Acme {number}" in rename(alice, f"Acme {number}")
    assert [line["reason"] for line in logs if line["event"] == "replica_away"] == ["behind"]
    monkeypatch.setattr(replica, "WAIT_SECONDS", PATIENCE)
    with all_from("replica"), capture_logs() as logs:
        assert "Acme again" in rename(alice, "Acme again")
        assert "Acme at last" in rename(alice, "Acme at last")
    assert [line["event"] for line in logs if line["event"].startswith("replica_")] == ["replica_back"]


def test_read_waits_for_a_replica_that_is_a_little_behind(
    alice: User, standby: Standby, known: Replica, context: Flask
) -> None:
    """The replica goes on while the read waits for it."""
    with contextlib.ExitStack() as pause:
        pause.enter_context(standby.paused())
        write_name(alice, "Later")

        def resume(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement == replica._HAS_REPLAYED:
                pause.close()

        sa.event.listen(known.engine, "before_cursor_execute", resume)
        try:
            with all_from("replica"):
                assert read_in(lambda: session_of(alice)) == ["Later"]
        finally:
            sa.event.remove(known.engine, "before_cursor_execute", resume)


def test_writers_see_their_writes_while_replay_stops_and_goes_on(
    replicated: Flask, alice: User, carol: User, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "WAIT_SECONDS", 0.01)
    before = {place: reads(place) for place in ("replica", "primary")}
    is_done = threading.Event()

    def write_and_read(user: User) -> list[tuple[str, list[Any]]]:
        seen = []
        with replicated.app_context():
            while not is_done.is_set():
                name = f"Name {len(seen)}"
                write_name(user, name)
                seen.append((name, read_in(lambda: session_of(user))))
        return seen

    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as end:
        end.callback(is_done.set)
        results = [pool.submit(write_and_read, user) for user in (alice, carol)]
        for _ in range(5):
            with standby.paused():
                paused = reads("primary")
                wait_until(lambda: reads("primary") > paused, PATIENCE)  # noqa: B023 - it is called at once
            resumed = reads("replica")
            wait_until(lambda: reads("replica") > resumed, PATIENCE)  # noqa: B023 - it is called at once
        is_done.set()
        stale = [(name, names) for result in results for name, names in result.result() if names != [name]]
    assert stale == []
    assert all(reads(place) >= count + 5 for place, count in before.items())


def test_read_during_which_the_replica_ends_is_repeated_at_the_primary(
    alice: User, context: Flask, standby: Standby
) -> None:
    places = []

    def read() -> list[str]:
        with session_of(alice) as session:
            places.append("replica" if session.scalar(WHERE) else "primary")
            if places == ["replica"]:
                standby.stop()
            return list(session.scalars(NAMES))

    assert engine.read_from_replica(read) == ["Acme"]
    assert places == ["replica", "primary"]


def test_replica_that_is_gone_is_not_asked_by_every_request(
    alice: User, standby: Standby, known: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[Any] = []
    sa.event.listen(known.engine, "do_connect", lambda *arguments: attempts.append(arguments))
    standby.stop()
    monkeypatch.setattr(replica, "REST_SECONDS", 3600)
    with all_from("primary"), capture_logs() as logs:
        for number in range(5):
            assert f"Acme {number}" in rename(alice, f"Acme {number}")
    assert len(attempts) <= 1  # none where the first request had a connection, which broke
    assert [line["reason"] for line in logs if line["event"] == "replica_away"] == ["unreachable"]
    monkeypatch.setattr(known, "_rests_until", 0)
    standby.start()
    with all_from("replica"):
        assert "Acme again" in rename(alice, "Acme again")


def test_promoted_replica_is_not_read_and_gets_no_write(config: dict[str, Any], engines: Engines, app: Flask) -> None:
    with running_standby(engines) as promoted:
        application = create_app({**config, "DATABASE_REPLICA_URL": promoted.url})
        user = with_account(sign_up(application.test_client(), "dora@dora.example", "Dora & Co"))
        with all_from("replica"):
            assert "Dora 1" in rename(user, "Dora 1")
        assert promoted.execute("SELECT pg_promote()") == (True,)
        with all_from("primary"), capture_logs() as logs:
            assert "Dora 2" in rename(user, "Dora 2")
            with application.app_context():
                engine.read_from_replica(lambda: write_name(user, "Dora 3"))
        assert [line["reason"] for line in logs if line["event"] == "replica_away"] == ["promoted"]
        assert promoted.execute("SELECT count(*) FROM organizations WHERE name = 'Dora 3'") == (0,)
        with application.app_context():
            engine.dispose_connections()


def write_name(user: User, name: str) -> None:
    with session_of(user) as session:
        session.execute(sa.text("UPDATE organizations SET name = :name"), {"name": name})


def test_write_is_refused_by_the_replica_and_repeated_at_the_primary(
    alice: User, known: Replica, context: Flask
) -> None:
    with all_from("primary"):
        engine.read_from_replica(lambda: write_name(alice, "Written"))
    assert known.away_because is None
    assert read_in(lambda: session_of(alice)) == ["Written"]


def test_error_that_a_read_handles_is_no_result(alice: User, context: Flask) -> None:
    def read() -> list[str]:
        with contextlib.suppress(sa.exc.DBAPIError):
            write_name(alice, "Written")
        with session_of(alice) as session:
            return list(session.scalars(NAMES))

    assert engine.read_from_replica(read) == ["Written"]


def test_report_that_creates_an_account_is_made_at_the_primary(client: FlaskClient) -> None:
    user = sign_up(client)
    for place in ("primary", "replica"):
        with all_from(place):
            assert user.call("GET", "/usage")[0] == 200


def test_organizations_are_separated_at_the_replica(alice: User, carol: User, context: Flask) -> None:
    with all_from("replica"):
        assert read_in(lambda: session_of(alice)) == ["Acme"]
        assert read_in(lambda: session_of(carol)) == ["Carol & Co"]
        assert read_in(lambda: tenancy.system_session("ops.metrics")) == ["Acme", "Carol & Co"]
        assert read_in(unbound_session) == []
        assert read_in(unbound_session, WHERE) == [True]


def unbound_session() -> Any:
    return engine.ScopedSession(db)


def test_request_is_bound_at_the_replica_as_at_the_primary(alice: User, carol: User, client: FlaskClient) -> None:
    with all_from("replica"):
        pages = [Browser(client.application, user).open("/dashboard/settings").text for user in (alice, carol)]
    assert ["Carol &amp; Co" in page for page in pages] == [False, True]


def test_transaction_outside_of_a_read_is_at_the_primary(context: Flask) -> None:
    assert read_in(unbound_session, WHERE) == [True]
    with unbound_session() as session:
        assert session.scalar(WHERE) is False


def test_snapshot_of_several_statements_is_read_from_the_primary(alice: User, context: Flask) -> None:
    """Its first statement would take the snapshot before the replica has told how far it is."""
    organization_id = ids.parse_id("org", alice.organization_id)
    with all_from("primary"):
        assert read_in(lambda: tenancy.snapshot_session(organization_id)) == ["Acme"]


def test_read_that_replay_cancels_is_repeated_at_the_primary(
    alice: User, context: Flask, superuser: Any, standby: Standby
) -> None:
    places = []

    def read() -> None:
        with session_of(alice) as session:
            session.execute(NAMES)
            places.append("replica" if session.scalar(WHERE) else "primary")
            if places == ["replica"]:
                with superuser, superuser.cursor() as cursor:
                    cursor.execute("LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE")
                standby.catch_up()  # which cancels this transaction
                session.execute(NAMES)

    engine.read_from_replica(read)
    assert places == ["replica", "primary"]


def test_statement_that_takes_too_long_is_not_repeated(alice: User, context: Flask) -> None:
    places = []

    def read() -> None:
        with session_of(alice) as session:
            places.append(session.scalar(WHERE))
            session.execute(sa.text("SET LOCAL statement_timeout = 1"))
            session.execute(sa.text("SELECT pg_sleep(60)"))

    with pytest.raises(sa.exc.OperationalError):
        engine.read_from_replica(read)
    assert places == [True]


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (("saas_tenant", True, True), None),
        (("saas_tenant", False, True), "promoted"),
        (("saas_tenant", True, False), "other cluster"),
        (("postgres", True, True), "other role"),
    ],
)
def test_server_that_is_no_replica_of_the_primary_is_not_read(server: tuple[str, bool, bool], kind: str | None) -> None:
    problem = replica.find_problem(*server)
    assert (problem and problem.kind) == kind


def test_read_within_a_read_fails_and_is_repeated_with_it(alice: User, context: Flask) -> None:
    def read() -> list[str]:
        engine.read_from_replica(lambda: write_name(alice, "Written"))
        return read_in(lambda: session_of(alice))

    assert engine.read_from_replica(read) == ["Written"]


def test_file_of_events_is_read_from_the_replica(alice: User, context: Flask) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    events = LineSlice(organization_id, ids.new_id(), None, "free@1", "sms", None, None)
    with all_from("replica"):
        assert list(invoices.iter_line_event_rows(events)) == []


def test_every_page_is_read_from_the_replica(replicated: Flask, alice: User, olga: User) -> None:
    """A page that writes at each request would be made twice."""
    browsers = {"dashboard": Browser(replicated, alice), "admin": open_console(replicated, olga)}
    browsers["admin"].open("/dashboard")  # which creates what is missing
    read, wrong = 0, []
    for rule in replicated.url_map.iter_rules():
        section = rule.endpoint.partition(".")[0]
        if section not in browsers or rule.arguments or "GET" not in rule.methods or rule.rule.startswith("/api/"):
            continue
        if access(replicated, rule).is_for_portal:
            continue
        browser = browsers[section]
        before, failed = reads("replica"), reads("primary")
        assert browser.open(rule.rule).status_code in (200, 303), rule
        read += reads("replica") > before
        wrong += [rule.rule] if reads("primary") > failed else []
    assert wrong == []
    assert read > 40


def scrape(client: FlaskClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_metrics_and_probe_tell_of_the_replica(
    client: FlaskClient, alice: User, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.catch_up()
    assert (scrape(client)["saas_replica_up"], client.get("/readyz").json) == (1, {**READY, "replica": "ok"})
    monkeypatch.setattr(replica, "WAIT_SECONDS", 0)
    with standby.paused():
        rename(alice, "Behind")
        wait_until(lambda: scrape(client)["saas_replica_lag_seconds"] > 0)
    standby.stop()
    rename(alice, "Gone")
    assert scrape(client)["saas_replica_up"] == 0
    probe = client.get("/readyz")
    assert (probe.status_code, probe.json) == (200, {**READY, "replica": "away"})


def test_doctor_looks_at_the_replica(
    context: Flask, known: Replica, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.catch_up()
    assert "replica" in {finding.name for finding in doctor.collect_findings()}
    assert doctor.check_replica(known).state == doctor.OK
    monkeypatch.setattr(doctor, "REPLICA_LAG_WARN_SECONDS", 0)
    with standby.paused(), tenancy.system_session("ops.metrics") as session:
        session.execute(sa.text("INSERT INTO invariant_results VALUES ('one', now(), 0)"))
        session.commit()
        wait_until(lambda: doctor.check_replica(known).state == doctor.WARN)
    standby.stop()
    finding = doctor.check_replica(known)
    assert (finding.state, finding.remedy) == (doctor.FAIL, "Look at DATABASE_REPLICA_URL.")


def test_doctor_refuses_a_server_that_is_no_replica(config: dict[str, Any], engines: Engines, app: Flask) -> None:
    for login, part in (("saas_app", "it is no replica"), ("saas", "owns the tables")):
        url = f"postgresql+psycopg2://{login}@/saas?host={engines.run}&connect_timeout=3"
        application = create_app({**config, "APP_ENV": "production", "DATABASE_REPLICA_URL": url})
        with application.app_context():
            found = engine.find_replica()
            assert found is not None
            finding = doctor.check_replica(found)
            engine.dispose_connections()
        assert finding.state == doctor.FAIL
        assert part in finding.what
