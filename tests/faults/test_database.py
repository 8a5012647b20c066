"""PostgreSQL terminates or refuses connections, or turns read-only: calls get 503 and succeed again afterwards."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from saas_api.settings.instance import DATABASE_LOGIN
from tests.faults import consistency
from tests.faults.load import Load, sign_up
from tests.faults.stack import Stack, wait_until

CUTS = 6
DOWN_SECONDS = 3
_CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s"


def command(running: Stack, sql: str) -> None:
    """Execute a statement outside a transaction, such as ALTER SYSTEM."""
    with closing(running.database()) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)


@contextmanager
def altered(running: Stack, change: str, back: str) -> Iterator[None]:
    """Change the server for the block; open connections are terminated, or reloaded with it."""
    command(running, change)
    try:
        yield
    finally:
        command(running, back)


def check(name: str, running: Stack, load: Load, allowed: set[int]) -> None:
    consistency.settle(running, 60)
    violations = consistency.find_violations(running, load)
    consistency.report(name, running, load, violations)
    statuses = sorted({status for status, _ in load.statuses})
    print(f"{name}: answers {statuses}, slowest {max(seconds for _, seconds in load.statuses):.2f} s")  # noqa: T201 - the figures are what the round is for
    assert violations == []
    assert set(statuses) <= allowed


def test_connection_cut_while_accepting_is_replaced(running: Stack) -> None:
    with Load(running, [sign_up(running, "terminated")], threads=3) as load:
        terminated = 0
        for _ in range(CUTS):
            time.sleep(1)
            terminated += running.rows(_CUT, DATABASE_LOGIN)[0][0]
    print(f"\n{terminated} connections terminated")  # noqa: T201 - the figures are what the round is for
    assert terminated >= CUTS
    check("backends terminated", running, load, {202, 503})
    refused = sum(status == 503 for status, _ in load.statuses)
    print(f"{refused} times 503")  # noqa: T201 - the figures are what the round is for
    assert refused <= CUTS


def test_database_without_free_connections_answers_503(running: Stack) -> None:
    tenant = sign_up(running, "crowded")
    with Load(running, [tenant], threads=2, pause=0.02) as load:
        time.sleep(1)
        with altered(
            running,
            f"ALTER ROLE {DATABASE_LOGIN} CONNECTION LIMIT 0",
            f"ALTER ROLE {DATABASE_LOGIN} CONNECTION LIMIT -1",
        ):
            running.rows(_CUT, DATABASE_LOGIN)
            time.sleep(DOWN_SECONDS)
        accepted = len(load.journal)
        wait_until(lambda: len(load.journal) > accepted + 10, 15, "accepting again")
    check("connections exhausted", running, load, {202, 503})
    assert any(status == 503 for status, _ in load.statuses)


def test_read_only_database_answers_503(running: Stack) -> None:
    tenant = sign_up(running, "standby")
    with Load(running, [tenant], threads=2, pause=0.02) as load:
        time.sleep(1)
        name = "default_transaction_read_only"
        with altered(running, f"ALTER SYSTEM SET {name} = on", f"ALTER SYSTEM RESET {name}"):
            command(running, "SELECT pg_reload_conf()")
            time.sleep(DOWN_SECONDS)
        command(running, "SELECT pg_reload_conf()")
        accepted = len(load.journal)
        wait_until(lambda: len(load.journal) > accepted + 10, 15, "accepting again")
    check("read-only", running, load, {202, 503})
    assert any(status == 503 for status, _ in load.statuses)
