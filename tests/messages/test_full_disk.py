"""PostgreSQL without room on its disk: calls get 503, and nothing that was accepted is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from tests.support.messages import SEND, SMS, MessagingOrganization, Work, make_due, provider_calls, rows

FILL = """CREATE FUNCTION fill_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION fill_disk()"""


@contextmanager
def full_disk(superuser: Any) -> Iterator[None]:
    """Let PostgreSQL answer writes of messages as it does when a table's file cannot grow."""

    def execute(statement: str) -> None:
        with superuser, superuser.cursor() as cursor:
            cursor.execute(statement)

    execute(FILL)
    try:
        yield
    finally:
        execute("DROP FUNCTION fill_disk CASCADE")


def test_full_disk_refuses_calls_with_503_and_loses_nothing(
    app: Flask, client: FlaskClient, work: Work, superuser: Any, patient_redis: None
) -> None:
    acme = MessagingOrganization(client, "Acme", "alice@acme.example")
    accepted = acme.send()["message_id"]
    repeated = {**acme.live, "Idempotency-Key": "once"}
    with full_disk(superuser):
        with capture_logs() as lines:
            refused = client.post(SEND, json=SMS, headers=repeated)
        assert [line["sqlstate"] for line in lines if line["event"] == "database_away"] == ["53100"]
        assert (refused.status_code, refused.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert refused.headers["Retry-After"]
        assert acme.show(accepted)["status"] == "queued"
        work()
        assert provider_calls(app) == []
    assert client.post(SEND, json=SMS, headers=repeated).status_code == 202
    make_due(app, acme.id)
    work()
    assert rows(app, acme.id, "SELECT status, count(*) FROM messages GROUP BY 1") == [("delivered", 2)]
    assert rows(app, acme.id, "SELECT count(*) FROM usage_events") == [(2,)]
